/** A Debian system of its own with systemd as its first process, for tests of packages: nothing of the host's is started. */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Result } from './daemon.js';
import { type Child, type Sandbox } from './sandbox.js';
import { eventually } from './stack.js';

/** Puts the namespaces in order that unshare(1) made, and becomes systemd. $0: the root. */
const BOOT = `
set -e
mount --bind "$0" "$0"
cd "$0"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf sys/fs/bpf
for dir in run tmp dev; do mount -t tmpfs -o nosuid,mode=755 tmpfs $dir; done
for device in null zero full random urandom tty; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
pivot_root . mnt
umount -l /mnt
exec env -i container=slipstream-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
  /lib/systemd/systemd --system --show-status=no --log-target=journal --unit=multi-user.target
`;

/** Why no such system can be made here, if so. */
export function whyNoMachines(): string | undefined {
  for (const command of ['mmdebstrap', 'dpkg-deb', 'nsenter']) {
    if (spawnSync(command, ['--version']).status !== 0) return `${command} does not run`;
  }
  return undefined;
}

/** The distribution that the tests run on, with nothing but these packages and systemd. */
export function makeRoot(sandbox: Sandbox, packages: readonly string[]): string {
  const root = join(sandbox.dir, 'root');
  const suite = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
  if (suite === undefined) throw new Error('/etc/os-release has no VERSION_CODENAME');
  execFileSync(
    'mmdebstrap',
    [
      ...[
        '--mode=root',
        '--variant=minbase',
        '--dpkgopt=force-unsafe-io',
        '--dpkgopt=path-exclude=/usr/share/locale/*',
      ],
      ...[`--include=systemd,${packages.join(',')}`, suite, root],
    ],
    { stdio: 'pipe' },
  );
  return root;
}

/** A package with these control fields and files; returns its path. */
export function makePackage(sandbox: Sandbox, fields: Record<string, string>, files: Record<string, string>): string {
  const folder = join(sandbox.dir, `${fields['Package'] ?? ''}-package`);
  mkdirSync(join(folder, 'DEBIAN'), { recursive: true });
  writeFileSync(
    join(folder, 'DEBIAN/control'),
    Object.entries(fields)
      .map(([name, value]) => `${name}: ${value}\n`)
      .join(''),
  );
  for (const [target, source] of Object.entries(files)) {
    mkdirSync(join(folder, target, '..'), { recursive: true });
    copyFileSync(source, join(folder, target));
  }
  const file = `${folder}.deb`;
  execFileSync('dpkg-deb', ['-Znone', '--root-owner-group', '--build', folder, file], { stdio: 'pipe' });
  return file;
}

export class Machine {
  /** Network namespace by name, with a loopback only. */
  readonly netns: string;
  readonly #sandbox: Sandbox;
  readonly #init: number;

  private constructor(sandbox: Sandbox, netns: string, init: number) {
    this.#sandbox = sandbox;
    this.netns = netns;
    this.#init = init;
  }

  /** Starts it: the sandbox's cgroup is the root of all that it sees of cgroups. */
  static async boot(sandbox: Sandbox, root: string): Promise<Machine> {
    const netns = sandbox.makeNetns('machine');
    const namespaces = ['--mount', '--pid', '--cgroup', '--uts', '--ipc', '--fork', '--kill-child'];
    const child = sandbox.spawn('unshare', [...namespaces, 'sh', '-c', BOOT, root], { netns });
    const init = await eventually('a first process', () => childOf(child));
    const machine = new Machine(sandbox, netns, init);
    for (const deadline = Date.now() + 30_000; ;) {
      const { stdout } = await machine.run('systemctl', 'is-system-running');
      if (/^(running|degraded)$/m.test(stdout)) return machine;
      if (Date.now() > deadline) throw new Error(`systemd does not start: ${stdout}${child.stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** A path of its own as this process can open it. */
  path(path: string): string {
    return `/proc/${String(this.#init)}/root${path}`;
  }

  /** Runs a command inside to its end. */
  async run(...command: string[]): Promise<Result> {
    const environment = [
      'env',
      '-i',
      'DEBIAN_FRONTEND=noninteractive',
      'LC_ALL=C',
      'PATH=/usr/sbin:/usr/bin:/sbin:/bin',
    ];
    const child = this.#sandbox.spawn(
      'nsenter',
      ['--all', `--target=${String(this.#init)}`, ...environment, ...command],
      {
        cgroup: null,
      },
    );
    child.process.stdin.end();
    const code = await child.exited();
    return { code, stdout: child.lines.map((line) => `${line}\n`).join(''), stderr: child.stderr };
  }

  /** The same, and it must succeed; returns what it printed. */
  async must(...command: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...command);
    if (code === 0) return stdout;
    const journal = await this.run('journalctl', '--no-pager', '--lines=30', '--output=cat');
    throw new Error(
      `${command.join(' ')} ended with ${String(code)}:\n${stdout}${stderr}\njournal:\n${journal.stdout}`,
    );
  }

  /** Gives it a file. */
  copy(file: string, name: string): string {
    const target = `/var/tmp/${name}`;
    copyFileSync(file, this.path(target));
    return target;
  }
}

function childOf({ pid }: Child): number | undefined {
  const children = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'utf8').trim();
  return children === '' ? undefined : Number(children);
}
