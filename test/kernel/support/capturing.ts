/** A running `capture`, and what tshark makes of its file. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { PROGRAM } from './daemon.js';
import type { Child, Sandbox } from './sandbox.js';

let files = 0;

export class Capturing {
  readonly child: Child;
  readonly file: string;

  private constructor(child: Child, file: string) {
    this.child = child;
    this.file = file;
  }

  /** Resolves when it is attached. */
  static async start(sandbox: Sandbox, ...args: string[]): Promise<Capturing> {
    const file = join(sandbox.dir, `capture-${String(files++)}.pcapng`);
    const child = sandbox.spawn(PROGRAM, ['capture', '--pin-dir', sandbox.pinDir, '-w', file, ...args], {
      cgroup: null,
    });
    await child.until(({ stderr }) => stderr.includes('capturing') || undefined);
    return new Capturing(child, file);
  }

  /** Ends it. */
  async stop(): Promise<this> {
    this.child.signal('SIGINT');
    return this.ended();
  }

  async ended(): Promise<this> {
    assert.equal(await this.child.exited(), 0, this.child.stderr);
    return this;
  }

  get packets(): Packet[] {
    return readPackets(this.file);
  }

  /** Everything that tshark finds strange about the TCP in it. */
  get complaints(): string[] {
    return tshark('-r', this.file, '-Y', 'tcp.analysis.flags || _ws.malformed || tcp.checksum.status == 0', ...CHECKS);
  }

  /** By interface, from the statistics that end the file. */
  get lost(): Record<string, number> {
    const bytes = readFileSync(this.file);
    const lost: Record<string, number> = {};
    for (let at = 0; at < bytes.length; at += bytes.readUInt32LE(at + 4)) {
      if (bytes.readUInt32LE(at) !== 5) continue;
      const name = ['tcp', 'direct'][bytes.readUInt32LE(at + 8)] ?? '?';
      for (let option = at + 20; bytes.readUInt16LE(option) !== 0;) {
        if (bytes.readUInt16LE(option) === 5) lost[name] = Number(bytes.readBigUInt64LE(option + 4));
        option += 4 + Math.ceil(bytes.readUInt16LE(option + 2) / 4) * 4;
      }
    }
    return lost;
  }
}

const CHECKS = ['-o', 'tcp.check_checksum:TRUE', '-o', 'ip.check_checksum:TRUE'];

export interface Packet {
  stream: number;
  path: string;
  source: string;
  destination: string;
  /** Since 1970. */
  seconds: number;
  sequence: number;
  acknowledgement: number;
  /** Of the payload on its way. */
  length: number;
  /** As far as it was kept. */
  payload: Buffer;
  comment: string;
}

/** Runs tshark and returns the lines it prints. */
export function tshark(...args: string[]): string[] {
  const options = { encoding: 'utf8', stdio: 'pipe', maxBuffer: 2 ** 29 } as const;
  return execFileSync('tshark', ['-n', ...args], options)
    .split('\n')
    .filter(Boolean);
}

const FIELDS = [
  'tcp.stream',
  'frame.interface_name',
  'ip.src',
  'ipv6.src',
  'tcp.srcport',
  'ip.dst',
  'ipv6.dst',
  'tcp.dstport',
  'frame.time_epoch',
  'tcp.seq_raw',
  'tcp.ack_raw',
  'tcp.len',
  'frame.len',
  'frame.cap_len',
  'tcp.payload',
  'frame.comment',
];

function readPackets(file: string): Packet[] {
  return tshark('-r', file, '-T', 'fields', '-E', 'occurrence=f', ...FIELDS.flatMap((field) => ['-e', field])).map(
    (line) => {
      const values = line.split('\t');
      const get = (name: string): string => values[FIELDS.indexOf(name)] ?? '';
      const headers = Number(get('frame.len')) - Number(get('tcp.len'));
      return {
        stream: Number(get('tcp.stream')),
        path: get('frame.interface_name'),
        source: `${get('ip.src') || get('ipv6.src')} ${get('tcp.srcport')}`,
        destination: `${get('ip.dst') || get('ipv6.dst')} ${get('tcp.dstport')}`,
        seconds: Number(get('frame.time_epoch')),
        sequence: Number(get('tcp.seq_raw')),
        acknowledgement: Number(get('tcp.ack_raw')),
        length: Number(get('tcp.len')),
        payload: Buffer.from(get('tcp.payload'), 'hex').subarray(0, Number(get('frame.cap_len')) - headers),
        comment: get('frame.comment'),
      };
    },
  );
}

/** The two directions of the stream with this number as tshark reassembles them, the client's first. */
export function follow(file: string, stream: number): [Buffer, Buffer] {
  const lines = tshark('-r', file, '-q', '-z', `follow,tcp,raw,${String(stream)}`);
  const hex = lines.filter((line) => /^\t?[0-9a-f]+$/.test(line));
  const bytes = (wanted: boolean): Buffer =>
    Buffer.concat(
      hex.filter((line) => line.startsWith('\t') === wanted).map((line) => Buffer.from(line.trim(), 'hex')),
    );
  return [bytes(false), bytes(true)];
}
