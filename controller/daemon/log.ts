/** The daemon's log: JSON lines, with priorities where the journal reads them, and never a flood. */
import { fstatSync } from 'node:fs';

import { type DestinationStream, type Logger, pino } from 'pino';

/** sd-daemon(3): what the journal takes for the priority of a line, by pino's level. */
const PRIORITIES: readonly (readonly [level: number, prefix: string])[] = [
  [60, '<2>'],
  [50, '<3>'],
  [40, '<4>'],
  [30, '<6>'],
  [0, '<7>'],
];

export interface LogOptions {
  level: string;
  /** Lines of one kind in one window; the others are counted and summed up in one line at its end. */
  burst?: number;
  /** Milliseconds. */
  window?: number;
  /** Where lines go; default: standard error. */
  destination?: DestinationStream;
  /** Prefixes lines with their priority; default: if standard error is the journal. */
  journal?: boolean;
}

/** Kinds that are told apart in one window; more share one account. */
const MAX_KINDS = 200;

/** What a line is an instance of: its level and words, and the reason that it gives. */
interface Kind {
  readonly level: number;
  readonly message: string;
  readonly reason: string | undefined;
  count: number;
}

/**
 * Makes the log of a daemon. Lines that differ only in what they are about (a pair, a process) are one kind, and of a
 * kind only so many come through in a window: the log of a host with much churn stays readable, and costs little.
 */
export function makeDaemonLog(options: LogOptions): Logger {
  const { level, burst = 20, window = 60_000 } = options;
  // Written at once: a log that is lost with the process is no log.
  const target = options.destination ?? pino.destination({ dest: 2, sync: true });
  const kinds = new Map<string, Kind>();
  let timer: NodeJS.Timeout | undefined;
  let summing = false;

  const endWindow = (): void => {
    timer = undefined;
    const suppressed = [...kinds.values()].filter(({ count }) => count > burst);
    kinds.clear();
    summing = true;
    try {
      for (const { level: of, message, reason, count } of suppressed) {
        const method = log[pino.levels.labels[of] as 'info'].bind(log);
        method(
          { ...(reason !== undefined && { reason }), count, suppressed: count - burst, seconds: window / 1000 },
          `${message}: ${count} times`,
        );
      }
    } finally {
      summing = false;
    }
  };

  const isOneTooMany = (of: number, args: readonly unknown[]): boolean => {
    const message = args.find((argument) => typeof argument === 'string') ?? '';
    const [details] = args as [{ reason?: unknown } | string];
    const reason = typeof details === 'object' && typeof details.reason === 'string' ? details.reason : undefined;
    let key = JSON.stringify([of, message, reason]);
    if (!kinds.has(key) && kinds.size >= MAX_KINDS) key = String(of);
    const kind = kinds.get(key) ?? {
      level: of,
      message: key === String(of) ? 'other lines' : message,
      reason: key === String(of) ? undefined : reason,
      count: 0,
    };
    kinds.set(key, kind);
    kind.count++;
    // The summary is not what keeps a process alive.
    timer ??= setTimeout(endWindow, window).unref();
    return kind.count > burst;
  };

  const log: Logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      hooks: {
        logMethod(args, method, of) {
          if (summing || !isOneTooMany(of, args)) method.apply(this, args);
        },
      },
    },
    (options.journal ?? isJournal(2, process.env['JOURNAL_STREAM'])) ? new JournalStream(target) : target,
  );
  return log;
}

/**
 * Whether a descriptor leads to the journal, as systemd.exec(5) has programs find out.
 * @param stream the value of $JOURNAL_STREAM, `DEVICE:INODE`
 */
export function isJournal(descriptor: number, stream: string | undefined): boolean {
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(descriptor, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** Streams that have it are told the level of each line by pino. */
const METADATA: unique symbol = Symbol.for('pino.metadata');

/** Puts the priority before each line. */
class JournalStream implements DestinationStream {
  readonly [METADATA] = true;
  lastLevel = 30;
  readonly #target: DestinationStream;

  constructor(target: DestinationStream) {
    this.#target = target;
  }

  write(line: string): void {
    const prefix = PRIORITIES.find(([level]) => this.lastLevel >= level)?.[1] ?? '';
    this.#target.write(`${prefix}${line}`);
  }
}
