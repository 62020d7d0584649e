/** An address and port to listen on, as text. */
import { EXIT, UserError } from '../errors.js';

export interface ListenAddress {
  host: string;
  port: number;
}

/**
 * Splits `ADDR:PORT`, `[ADDR6]:PORT` or `:PORT`.
 * @throws UserError (exit code 2)
 */
export function parseListenAddress(text: string): ListenAddress {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]\s]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65535) {
    throw new UserError(
      `--metrics ${text}: not an address and port, write for instance 127.0.0.1:9468 or [::1]:9468`,
      EXIT.usage,
    );
  }
  return { host: match[1] ?? match[2] ?? '', port };
}

/** `ADDR:PORT`, with brackets around IPv6. */
export function formatListenAddress({ host, port }: ListenAddress): string {
  return `${host.includes(':') ? `[${host}]` : host}:${String(port)}`;
}
