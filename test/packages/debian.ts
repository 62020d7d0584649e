/** The Debian package, machines to install it on, and what to ask of them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { readStatus, type Status } from '../../controller/view/status.js';
import { Machine, makePackage, makeRoot } from '../kernel/support/machine.js';
import { OBJECT_FILE, ROOT, type Sandbox } from '../kernel/support/sandbox.js';

export const UNIT = 'slipstream-bpf.service';
export const PIN_DIR = '/sys/fs/bpf/slipstream';
export const POLICY = '/etc/slipstream-bpf/policy.yaml';

type Maybe<T> = T | undefined | false;

/** A machine with Debian's base system and a Node.js, where the package is built and can be installed. */
export class DebianMachine {
  readonly machine: Machine;
  readonly #sandbox: Sandbox;
  readonly deb: string;

  private constructor(sandbox: Sandbox, machine: Machine, deb: string) {
    this.#sandbox = sandbox;
    this.machine = machine;
    this.deb = deb;
  }

  /** @param packages of the distribution that are there before */
  static async boot(sandbox: Sandbox, packages: readonly string[] = []): Promise<DebianMachine> {
    execFileSync(join(ROOT, 'scripts/deb'), { stdio: 'pipe' });
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    const architecture = execFileSync('dpkg', ['--print-architecture'], { encoding: 'utf8' }).trim();
    const deb = join(ROOT, 'build', `slipstream-bpf_${version}_${architecture}.deb`);
    // What the package depends on beside Node.js, and that is what apt finds below.
    const root = makeRoot(sandbox, ['libbpf1', 'libstdc++6', ...packages]);
    const machine = await Machine.boot(sandbox, root);
    // The Node.js that runs the tests may come from anywhere; Debian's own may be too old.
    const node = makePackage(
      sandbox,
      {
        Package: 'nodejs',
        Version: `${process.versions.node}-0test`,
        Architecture: architecture,
        Maintainer: 'nobody <nobody@invalid>',
        Depends: 'libstdc++6',
        Description: 'the Node.js that runs the tests',
      },
      { 'usr/bin/node': process.execPath },
    );
    await machine.must('dpkg', '--install', machine.copy(node, 'nodejs.deb'));
    const made = new DebianMachine(sandbox, machine, deb);
    // The machine's cgroups are a part of the host's, which has to be asked for.
    made.dropIn('cgroup', '[Service]\nEnvironment="SLIPSTREAM_OPTIONS=--cgroup /sys/fs/cgroup --max-pairs 1024"\n');
    return made;
  }

  /** Sets something of the unit. */
  dropIn(name: string, text: string): void {
    const folder = this.machine.path(`/etc/systemd/system/${UNIT}.d`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `${name}.conf`), text);
  }

  /** A property of the unit. */
  async show(property: string): Promise<string> {
    return (await this.machine.must('systemctl', 'show', '--value', `--property=${property}`, UNIT)).trim();
  }

  /** As `slipstream-bpf status` in the machine, without the time that it takes to start. */
  status(): Status {
    return readStatus(this.machine.path(PIN_DIR), OBJECT_FILE, 'test');
  }

  /** Asks until it holds: there is no event for what another process has done. */
  async until<T>(what: string, find: () => Maybe<T> | Promise<Maybe<T>>): Promise<T> {
    for (const deadline = Date.now() + 30_000; Date.now() < deadline;) {
      const found = await find();
      if (found !== undefined && found !== false) return found;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(
      `${what}: not within 30 s; ${(await this.machine.run('journalctl', '--no-pager', '-n30', '-ocat')).stdout}`,
    );
  }

  /** Resolves when so many more messages were redirected. */
  async redirected(messages: number): Promise<void> {
    const before = this.status().datapath?.redirectedMessages ?? 0;
    await this.until(`${String(messages)} more messages redirected`, () => {
      return (this.status().datapath?.redirectedMessages ?? 0) >= before + messages;
    });
  }

  /** The package again under a later version, for an upgrade. */
  laterPackage(version: string, change: (folder: string) => void = () => undefined): string {
    const folder = join(this.#sandbox.dir, `later-${version}`);
    execFileSync('dpkg-deb', ['--raw-extract', this.deb, folder]);
    const control = join(folder, 'DEBIAN/control');
    writeFileSync(control, readFileSync(control, 'utf8').replace(/^Version: .*$/m, `Version: ${version}`));
    change(folder);
    const file = `${folder}.deb`;
    execFileSync('dpkg-deb', ['-Znone', '--root-owner-group', '--build', folder, file], { stdio: 'pipe' });
    return this.machine.copy(file, `later-${version}.deb`);
  }

  async install(file = this.machine.copy(this.deb, 'slipstream-bpf.deb')): Promise<string> {
    return this.machine.must('apt-get', 'install', '--yes', '--no-install-recommends', file);
  }

  /** Asserts that after the package was removed and purged nothing of it is there. */
  async assertNothingLeft(): Promise<void> {
    const left = await this.machine.must(
      ...['find', '/etc', '/usr', '/var/lib', '/lib/systemd', '/run', '-xdev', '-name', '*slipstream*'],
      ...['-not', '-path', `/etc/systemd/system/${UNIT}.d*`],
    );
    assert.equal(left, '');
    assert.notEqual((await this.machine.run('systemctl', 'is-active', UNIT)).code, 0);
  }
}
