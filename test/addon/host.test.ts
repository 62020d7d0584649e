// Cgroups, locks, file systems and what the kernel offers.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, rmdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import {
  DirectoryLock,
  attachedPrograms,
  cgroupId,
  cgroupPath,
  fileSystemType,
  kernelBtfHas,
  listCgroups,
  listCgroupsSync,
  libbpfVersion,
  mountBpf,
  possibleCpus,
  probeIterator,
  probeMapType,
  probeProgramType,
  rcuBarrier,
} from '../../addon/index.js';
import {
  CGROUP_ROOT,
  cleanUpAfterEach,
  collectGarbage,
  needsRoot,
  script,
  temporaryBpffs,
  temporaryCgroup,
  temporaryFolder,
} from './support.js';

describe('a cgroup', () => {
  const later = cleanUpAfterEach();

  before(function () {
    needsRoot(this);
  });

  it('has the id that the kernel also shows as its inode', () => {
    const folder = temporaryCgroup(later);
    assert.equal(cgroupId(folder), statSync(folder, { bigint: true }).ino);
    assert.notEqual(cgroupId(folder), cgroupId(CGROUP_ROOT));
  });

  it('is found by its id, whatever its name', () => {
    const outer = temporaryCgroup(later, 'outer');
    assert.equal(cgroupPath(cgroupId(CGROUP_ROOT), CGROUP_ROOT), '/');
    for (const name of ['plain', 'with blank', 'ünï', 'looks (deleted)']) {
      const folder = temporaryCgroup(later, name, outer);
      assert.equal(cgroupPath(cgroupId(folder), CGROUP_ROOT), `/${relative(CGROUP_ROOT, folder)}`);
      assert.equal(cgroupPath(cgroupId(folder), `${CGROUP_ROOT}/`), `/${relative(CGROUP_ROOT, folder)}`);
    }
  });

  it('is gone once removed', () => {
    const folder = join(temporaryCgroup(later, 'outer'), 'removed');
    mkdirSync(folder);
    const id = cgroupId(folder);
    assert.notEqual(cgroupPath(id, CGROUP_ROOT), undefined);
    rmdirSync(folder);
    assert.equal(cgroupPath(id, CGROUP_ROOT), undefined);
    mkdirSync(folder); // one of the same name is another one
    later(() => {
      rmdirSync(folder);
    });
    assert.equal(cgroupPath(id, CGROUP_ROOT), undefined);
    assert.equal(cgroupPath(2n ** 60n, CGROUP_ROOT), undefined);
  });

  it('is found in the list of all, beside others that come and go', async () => {
    const folders = ['a', 'b'].map((name) => temporaryCgroup(later, name));
    for (const folder of [...folders]) folders.push(temporaryCgroup(later, 'below', folder));
    const busy = temporaryCgroup(later, 'busy');
    const ends = join(busy, 'x', 'y', 'z');
    later(() => {
      for (const folder of [ends, dirname(ends), join(busy, 'x')]) if (existsSync(folder)) rmdirSync(folder);
    });
    for (let round = 0; round < 20; ++round) {
      const listing = listCgroups(CGROUP_ROOT);
      for (let change = 0; change < 10; ++change) {
        mkdirSync(ends, { recursive: true });
        for (const folder of [ends, dirname(ends), join(busy, 'x')]) rmdirSync(folder);
        await setImmediate();
      }
      const { ids, paths, milliseconds } = await listing;
      assert.equal(paths[ids.indexOf(cgroupId(CGROUP_ROOT))], '/');
      for (const folder of folders) {
        assert.equal(paths[ids.indexOf(cgroupId(folder))], `/${relative(CGROUP_ROOT, folder)}`);
      }
      assert.equal(new Set(paths).size, ids.length);
      assert.ok(milliseconds > 0);
    }
    const { ids, paths } = listCgroupsSync(CGROUP_ROOT);
    const own = paths.filter((path) => folders.some((folder) => join(CGROUP_ROOT, path).startsWith(folder)));
    assert.deepEqual(own.map((path) => join(CGROUP_ROOT, path)).sort(), folders.sort());
    assert.equal(ids.length, paths.length);
  });

  it('is listed with two descriptors, however deep it is, and not at all without them', () => {
    const outer = temporaryCgroup(later, 'deep');
    let deepest = outer;
    const below: string[] = [];
    later(() => {
      for (const folder of below.reverse()) rmdirSync(folder);
    });
    for (let depth = 0; depth < 60; ++depth) {
      deepest = join(deepest, 'd');
      mkdirSync(deepest);
      below.push(deepest);
    }
    const { status, stdout, stderr } = spawnSync(
      'prlimit',
      [
        '--nofile=100',
        process.execPath,
        '--import',
        'tsx',
        script('list_cgroups.ts'),
        CGROUP_ROOT,
        String(cgroupId(deepest)),
      ],
      { encoding: 'utf8' },
    );
    assert.equal(status, 0, stderr);
    const said = stdout.trim().split('\n');
    assert.equal(said[0], `/${relative(CGROUP_ROOT, deepest)}`);
    assert.equal(said[1], 'EMFILE');
  });

  it('is not opened by its id without the right to', () => {
    const folder = temporaryCgroup(later);
    const code = `const { cgroupPath } = await import(process.argv[1]);
      try { cgroupPath(BigInt(process.argv[2]), process.argv[3]); } catch ({ code }) { console.log(code); }`;
    const args = ['--import', 'tsx', '--input-type=module', '-e', code, script('../../../addon/index.ts')];
    const { stdout, stderr } = spawnSync(
      'setpriv',
      ['--bounding-set', '-dac_read_search', process.execPath, ...args, String(cgroupId(folder)), CGROUP_ROOT],
      { encoding: 'utf8' },
    );
    assert.equal(stdout, 'EPERM\n', stderr);
  });

  it('is not just any directory', () => {
    const folder = temporaryFolder(later);
    assert.throws(() => listCgroupsSync(folder), { code: 'EINVAL', object: folder });
    assert.throws(() => cgroupId(folder), { code: 'EINVAL', object: folder });
    assert.throws(() => cgroupPath(1n, folder), { code: 'EINVAL', object: folder });
    assert.throws(() => cgroupId('/nowhere'), { code: 'ENOENT', object: '/nowhere' });
    assert.throws(() => cgroupPath(1 as unknown as bigint, CGROUP_ROOT), TypeError);
    assert.throws(() => cgroupPath(-1n, CGROUP_ROOT), RangeError);
    assert.throws(() => cgroupPath(2n ** 64n, CGROUP_ROOT), RangeError);
    assert.throws(() => attachedPrograms(CGROUP_ROOT, 'other' as 'sock_ops'), TypeError);
  });
});

describe('a directory lock', () => {
  const later = cleanUpAfterEach();

  /** Another process: 'locked' or 'busy', until its input ends. */
  async function other(folder: string) {
    const child = spawn(process.execPath, ['--import', 'tsx', script('lock.ts'), folder], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    later(() => child.kill('SIGKILL'));
    const [answer] = (await once(child.stdout, 'data')) as [Buffer];
    return { answer: String(answer).trim(), child, exited: once(child, 'exit') };
  }

  it('excludes other processes, until released', async () => {
    const folder = temporaryFolder(later);
    const lock = DirectoryLock.acquire(folder);
    assert(lock);
    assert.equal((await other(folder)).answer, 'busy');
    lock.release();
    lock.release();
    assert.equal((await other(folder)).answer, 'locked');
    assert.equal(DirectoryLock.acquire(folder), undefined);
  });

  it('ends with its process, however that ends', async () => {
    const folder = temporaryFolder(later);
    const { answer, child, exited } = await other(folder);
    assert.equal(answer, 'locked');
    assert.equal(DirectoryLock.acquire(folder), undefined);
    child.kill('SIGKILL');
    await exited;
    const lock = DirectoryLock.acquire(folder);
    assert(lock);
    lock.release();
  });

  it('is held when nothing refers to it', async () => {
    const folder = temporaryFolder(later);
    const lock = new WeakRef(DirectoryLock.acquire(folder)!);
    await collectGarbage();
    assert.equal(DirectoryLock.acquire(folder), undefined);
    lock.deref()?.release();
  });

  it('works in a BPF file system', function () {
    needsRoot(this);
    const folder = temporaryBpffs(later);
    const lock = DirectoryLock.acquire(folder);
    assert(lock);
    assert.equal(DirectoryLock.acquire(folder), undefined);
    lock.release();
  });

  it('needs a directory', () => {
    assert.throws(() => DirectoryLock.acquire('/nowhere'), { code: 'ENOENT', object: '/nowhere' });
    assert.throws(() => DirectoryLock.acquire(process.execPath), { code: 'ENOTDIR', object: process.execPath });
    assert.throws(() => DirectoryLock.acquire(undefined as unknown as string), TypeError);
    assert.throws(() => new (DirectoryLock as unknown as new () => unknown)(), TypeError);
  });
});

describe('a file system', () => {
  const later = cleanUpAfterEach();

  it('is named by its type', () => {
    assert.equal(fileSystemType(CGROUP_ROOT), 'cgroup2');
    assert.equal(fileSystemType('/proc'), 'other');
    assert.throws(() => fileSystemType('/nowhere'), { code: 'ENOENT', operation: 'statfs', object: '/nowhere' });
  });

  it('of BPF pins can be mounted, for root only', function () {
    needsRoot(this);
    const folder = temporaryFolder(later);
    assert.notEqual(fileSystemType(folder), 'bpf');
    const mounted = temporaryBpffs(later);
    assert.equal(fileSystemType(mounted), 'bpf');
    assert.equal(statSync(mounted).mode & 0o777, 0o700);
    assert.throws(
      () => {
        mountBpf('/nowhere');
      },
      { code: 'ENOENT', operation: 'mount', object: '/nowhere' },
    );
  });
});

describe('the kernel', () => {
  it('has the types and functions it lists', function () {
    if (!existsSync('/sys/kernel/btf/vmlinux')) {
      assert.throws(() => kernelBtfHas('struct', 'sock'), { code: 'ENOENT', object: '/sys/kernel/btf/vmlinux' });
      return;
    }
    assert.equal(kernelBtfHas('struct', 'tcp_sock'), true);
    assert.equal(kernelBtfHas('func', 'tcp_sendmsg'), true);
    assert.equal(kernelBtfHas('typedef', 'btf_trace_sys_enter'), true);
    assert.equal(kernelBtfHas('func', 'tcp_sock'), false);
    assert.equal(kernelBtfHas('struct', 'no_such_struct'), false);
    assert.throws(() => kernelBtfHas('union' as 'struct', 'x'), TypeError);
  });

  it('says which types of programs and maps it takes', function () {
    needsRoot(this);
    assert.equal(probeProgramType('sk_msg'), true);
    assert.equal(probeMapType('ringbuf'), true);
    assert.throws(() => probeProgramType('no_such_type'), RangeError);
    assert.throws(() => probeMapType('no_such_type'), RangeError);
    assert.equal(probeIterator('task_file'), true);
    assert.equal(probeIterator('no_such_target'), false);
  });

  it('refuses every type to those without privileges', function () {
    needsRoot(this);
    process.seteuid?.(65534);
    try {
      assert.equal(probeProgramType('sk_msg'), false);
    } finally {
      process.seteuid?.(0);
    }
  });

  it('counts CPUs, and libbpf its versions', () => {
    assert(possibleCpus() >= availableParallelism());
    assert.match(libbpfVersion(), /^1\.\d+$/);
  });
});

describe('the RCU barrier', () => {
  it('resolves, in both ways', async function () {
    needsRoot(this);
    await rcuBarrier();
    await rcuBarrier('map');
    assert.throws(() => rcuBarrier('other' as 'map'), TypeError);
  });

  it('uses membarrier unless told otherwise, which needs no privileges', async function () {
    needsRoot(this);
    process.seteuid?.(65534);
    try {
      await rcuBarrier();
      await assert.rejects(rcuBarrier('map'), { name: 'NativeError', code: 'EPERM', operation: 'rcuBarrier' });
    } finally {
      process.seteuid?.(0);
    }
  });

  it('survives the end of the thread that waits', async () => {
    for (let round = 0; round < 5; ++round) {
      const worker = new Worker(script('worker.js'), { workerData: [script('rcu.ts')] });
      await once(worker, 'message');
      assert.equal(await worker.terminate(), 1);
    }
    await rcuBarrier();
  });
});
