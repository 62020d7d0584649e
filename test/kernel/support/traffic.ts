/** Verified traffic of many connections (test/programs/traffic.c) that goes on until it is told to stop. */
import assert from 'node:assert/strict';

import { type Child, program, type Sandbox, type SpawnOptions } from './sandbox.js';

interface Progress {
  bytes: number;
}

interface Done extends Progress {
  mismatches: number;
}

export class Traffic {
  readonly child: Child;

  constructor(sandbox: Sandbox, options: SpawnOptions = {}) {
    const args = ['--connections', '20', '--seconds', '300', '--max-message', '64K', '--pingpong-share', '95'];
    this.child = sandbox.spawn(program('traffic'), args, options);
  }

  /** Waits until this many more bytes were verified. */
  async moved(bytes: number): Promise<void> {
    const latest = (): number => {
      const line = this.child.lines.findLast((text) => text.includes('"progress"'));
      return line === undefined ? 0 : (JSON.parse(line) as Progress).bytes;
    };
    const goal = latest() + bytes;
    await this.child.until(() => latest() >= goal || undefined);
  }

  /** Ends it and checks that not a byte was wrong. */
  async finish(): Promise<void> {
    this.child.signal('SIGTERM');
    const end = await this.child.event<Done>('interrupted');
    assert.equal(end.mismatches, 0);
    assert.equal(await this.child.exited(), 0, this.child.lines.slice(-3).join('\n'));
  }
}
