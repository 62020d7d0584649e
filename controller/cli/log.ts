/** The log of commands that end. */
import { type Logger, pino } from 'pino';

export function makeLog(level: string): Logger {
  // Written at once: a log that is lost with the process is no log.
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
}
