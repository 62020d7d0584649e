/** Containers as an engine sets them up: runc, a busybox root file system, a network namespace and a v2 cgroup of their own. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

import { cgroupRoot } from '../../../controller/probe/host.js';
import { ROOT, type Sandbox } from './sandbox.js';

/** A mount as config.json of the OCI runtime specification has it. */
export interface Mount {
  destination: string;
  type: string;
  source: string;
  options: string[];
}

export interface ContainerOptions {
  /** Network namespace by name (ip-netns(8)); default: an empty one. Null: the host's. */
  netns?: string | null;
  /** cgroup directory; default: one by the container's name, below the sandbox's. */
  cgroup?: string;
  /** Whether it shares the host's process ids. */
  hostPid?: boolean;
  capabilities?: string[];
  readOnlyRoot?: boolean;
  mounts?: Mount[];
  env?: Record<string, string>;
  /** Working directory inside. */
  directory?: string;
  /** A cgroup namespace of its own, as engines give where cgroup v2 is the only one. */
  cgroupNamespace?: boolean;
  noNewPrivileges?: boolean;
  /** More of the section `linux` of config.json. */
  linux?: Record<string, unknown>;
}

/** A read-only bind mount. */
export function readOnly(source: string, destination = source): Mount {
  return { destination, type: 'bind', source, options: ['rbind', 'ro', 'nosuid', 'nodev'] };
}

/** What container engines give a process that asks for nothing. */
const DEFAULT_CAPABILITIES = ['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'KILL', 'NET_BIND_SERVICE', 'SETGID', 'SETUID'].map(
  (name) => `CAP_${name}`,
);

/** Why no container can be run here, if so. */
export function whyNoContainers(): string | undefined {
  for (const [command, ...args] of [
    ['runc', '--version'],
    ['busybox', 'true'],
  ] as const) {
    try {
      execFileSync(command, args, { stdio: 'pipe' });
    } catch (error) {
      return `${command} does not run: ${String(error).split('\n')[0] ?? ''}`;
    }
  }
  return undefined;
}

/** Runs one program; started by `Sandbox.spawn` with the option `container`. */
export class Container {
  /** cgroup directory; exists while the container does. */
  readonly cgroup: string;
  readonly #id: string;
  readonly #bundle: string;
  readonly #options: ContainerOptions;
  #gone = false;
  #pid: number | undefined;

  /** @param name is unique in the sandbox */
  constructor(sandbox: Sandbox, name: string, options: ContainerOptions = {}) {
    this.#id = `${basename(sandbox.cgroup)}-${name}`;
    this.#bundle = join(sandbox.dir, `container-${name}`);
    this.#options = options;
    this.cgroup = options.cgroup ?? join(sandbox.cgroup, name);
    const rootfs = join(this.#bundle, 'rootfs');
    // Programs come from the machine's own /usr, the rest from busybox.
    for (const dir of ['bin', 'dev', 'etc', 'proc', 'programs', 'run', 'sys', 'tmp', 'usr']) {
      mkdirSync(join(rootfs, dir), { recursive: true });
    }
    for (const dir of ['lib', 'lib64', 'sbin']) symlinkSync(`usr/${dir}`, join(rootfs, dir));
    execFileSync('cp', [
      execFileSync('sh', ['-c', 'command -v busybox'], { encoding: 'utf8' }).trim(),
      `${rootfs}/bin`,
    ]);
    execFileSync('chroot', [rootfs, '/bin/busybox', '--install', '-s', '/bin']);
    writeFileSync(join(rootfs, 'etc', 'passwd'), 'root:x:0:0:root:/:/bin/sh\n');
    sandbox.undo(() => {
      this.remove();
    });
  }

  /** The command that starts a program inside, and stays until it ends. */
  command(program: string, args: readonly string[]): string[] {
    writeFileSync(join(this.#bundle, 'config.json'), JSON.stringify(this.#config([program, ...args])));
    return [...this.#runc, 'run', '--bundle', this.#bundle, this.#id];
  }

  /** The command that runs another program inside while the first one does. */
  execCommand(program: string, args: readonly string[]): string[] {
    return [...this.#runc, 'exec', this.#id, program, ...args];
  }

  /** A file or directory of its root file system, as the host sees it. */
  path(inside: string): string {
    return join(this.#bundle, 'rootfs', inside);
  }

  /** Of the program, as the host counts; only once it has started. */
  get pid(): number {
    // The file of runc's --pid-file comes later than the program's first words may.
    this.#pid ??= (JSON.parse(this.#run('state', this.#id)) as { pid: number }).pid;
    return this.#pid;
  }

  /** Sends a signal to the program. */
  kill(signal: NodeJS.Signals): void {
    this.#run('kill', this.#id, signal);
  }

  /** Ends and removes it; a second call does nothing. */
  remove(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#run('delete', '--force', this.#id);
    for (const mount of legacyHierarchies()) removeEmpty(join(mount, dirname(this.#cgroupPath)), mount);
  }

  get #cgroupPath(): string {
    return `/${this.cgroup.slice(cgroupRoot().length).replace(/^\/+/, '')}`;
  }

  get #runc(): string[] {
    return ['runc', '--root', join(this.#bundle, 'state')];
  }

  #run(...args: string[]): string {
    return execFileSync('runc', [...this.#runc.slice(1), ...args], { encoding: 'utf8', stdio: 'pipe' });
  }

  #config(args: string[]): object {
    const { netns, hostPid, capabilities = DEFAULT_CAPABILITIES, env = {}, directory = '/' } = this.#options;
    const namespaces: { type: string; path?: string }[] = [{ type: 'mount' }, { type: 'ipc' }, { type: 'uts' }];
    if (hostPid !== true) namespaces.push({ type: 'pid' });
    if (this.#options.cgroupNamespace === true) namespaces.push({ type: 'cgroup' });
    if (netns !== null)
      namespaces.push({ type: 'network', ...(netns !== undefined && { path: `/run/netns/${netns}` }) });
    return {
      ociVersion: '1.0.2',
      process: {
        terminal: false,
        user: { uid: 0, gid: 0 },
        args,
        env: Object.entries({ PATH: '/usr/bin:/bin:/usr/sbin:/sbin', ...env }).map(([key, value]) => `${key}=${value}`),
        cwd: directory,
        capabilities: Object.fromEntries(['bounding', 'effective', 'permitted'].map((set) => [set, capabilities])),
        noNewPrivileges: this.#options.noNewPrivileges ?? true,
      },
      root: { path: 'rootfs', readonly: this.#options.readOnlyRoot ?? false },
      hostname: 'container',
      mounts: [
        { destination: '/proc', type: 'proc', source: 'proc', options: [] },
        { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755'] },
        { destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'nodev'] },
        readOnly('/usr'),
        readOnly(join(ROOT, 'build', 'programs'), '/programs'),
        ...(this.#options.mounts ?? []),
      ],
      linux: {
        cgroupsPath: this.#cgroupPath,
        resources: { devices: [{ allow: true, access: 'rwm' }] },
        namespaces,
        ...this.#options.linux,
      },
    };
  }
}

/** Where cgroup v1 is mounted: on a host that has both, runc makes the container's cgroup in each, and leaves its parents. */
function legacyHierarchies(): string[] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  return mounts.map((line) => line.split(' ')).flatMap(([, target = '', type]) => (type === 'cgroup' ? [target] : []));
}

/** Removes empty directories from this one upwards, below a top that stays. */
function removeEmpty(dir: string, top: string): void {
  for (let at = dir; at.length > top.length; at = dirname(at)) {
    try {
      rmdirSync(at);
    } catch {
      return; // not there, or others live in it
    }
  }
}
