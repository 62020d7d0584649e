// Attaching, pinning and detaching programs of each kind.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { type AddressInfo, type Socket, connect, createServer } from 'node:net';
import { join } from 'node:path';

import {
  BpfLink,
  BpfMap,
  type BpfObject,
  BpfProgram,
  attachedPrograms,
  cgroupId,
  probeIterator,
} from '../../addon/index.js';
import {
  Control,
  cleanUpAfterEach,
  getppid,
  loadFixture,
  needsRoot,
  skip,
  temporaryBpffs,
  temporaryCgroup,
  temporaryFolder,
  u32,
  u64,
} from './support.js';

describe('a program', () => {
  const later = cleanUpAfterEach();
  let object: BpfObject;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    object = loadFixture(later);
  });

  function closing<T extends { close(): void }>(resource: T): T {
    later(() => {
      resource.close();
    });
    return resource;
  }

  /** A connected TCP socket; its peer reads and forgets. */
  async function connectedSocket(): Promise<Socket> {
    const server = createServer((peer) => peer.resume()).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    later(() => {
      socket.destroy();
      server.close();
    });
    await once(socket, 'connect');
    return socket;
  }

  const descriptor = (socket: Socket) => (socket as unknown as { _handle: { fd: number } })._handle.fd;

  it('attaches to a cgroup until detached', () => {
    const cgroup = temporaryCgroup(later);
    const program = object.program('fixture_sock_ops_with_a_long_name');
    assert.deepEqual(attachedPrograms(cgroup, 'sock_ops'), []);
    const link = closing(program.attachCgroup(cgroup));
    // The kernel keeps 15 characters of a name.
    assert.deepEqual(attachedPrograms(cgroup, 'sock_ops'), [{ id: program.id, name: 'fixture_sock_op', maps: [] }]);
    const { id, ...info } = link.info();
    assert(id > 0);
    assert.deepEqual(info, { type: 'cgroup', programId: program.id, cgroupId: cgroupId(cgroup) });
    link.detach();
    assert.deepEqual(attachedPrograms(cgroup, 'sock_ops'), []);
    assert.equal(link.info().cgroupId, 0n);
  });

  it('names the directory that is no cgroup', () => {
    const program = object.program('fixture_sock_ops_with_a_long_name');
    assert.throws(() => program.attachCgroup('/nowhere'), { code: 'ENOENT', operation: 'open', object: '/nowhere' });
    const folder = temporaryFolder(later);
    assert.throws(() => program.attachCgroup(folder), { name: 'NativeError', operation: 'attach_cgroup' });
    assert.throws(() => attachedPrograms(folder, 'sock_ops'), { code: 'EINVAL', object: folder });
  });

  it('runs at its tracepoint while its link is open', () => {
    const control = new Control(object);
    control.watch(0);
    getppid();
    assert.equal(control.calls, 0);
    const program = object.program('fixture_syscall');
    const link = program.attachTracepoint();
    assert.deepEqual(link.info(), { id: link.info().id, type: 'raw_tracepoint', programId: program.id });
    assert.throws(
      () => {
        link.detach();
      },
      { code: 'EOPNOTSUPP', operation: 'bpf_link_detach' },
    );
    for (let i = 0; i < 5; ++i) getppid();
    assert.equal(control.calls, 5);
    link.close();
    getppid();
    assert.equal(control.calls, 5);
  });

  it('runs on while its link is pinned, whoever closes what', () => {
    const pin = join(temporaryBpffs(later), 'link');
    const control = new Control(object);
    control.watch(0);
    const program = object.program('fixture_syscall');
    const link = program.attachTracepoint();
    const { id } = link.info();
    link.pin(pin);
    link.close();
    program.close();
    object.close();
    getppid();
    assert.equal(control.calls, 1);
    const again = BpfLink.open(pin);
    assert.equal(again.info().id, id);
    rmSync(pin);
    getppid();
    assert.equal(control.calls, 2);
    again.close();
    getppid();
    assert.equal(control.calls, 2);
  });

  for (const over of ['everything', 'the elements of a map']) {
    it(`iterates over ${over} and returns all it writes, at every run`, async function () {
      if (over !== 'everything') {
        if (!probeIterator('bpf_sk_storage_map')) skip(this, 'this kernel keeps iterators from maps');
        object = loadFixture(later, 'MAP_ITERATOR');
      }
      const storage = object.map('storage');
      const link = closing(
        over === 'everything'
          ? object.program('fixture_iterator').attachIterator()
          : object.program('fixture_map_iterator').attachIterator(storage),
      );
      await writesAll(link, storage);
    });
  }

  async function writesAll(link: BpfLink, storage: BpfMap): Promise<void> {
    const control = new Control(object);
    assert.equal(link.info().type, 'iter');
    assert.deepEqual(link.runIterator(), Buffer.alloc(0));
    for (const value of [11, 22, 33]) storage.update(u32(descriptor(await connectedSocket())), u32(value));
    // The second run writes more than one read() returns.
    for (const times of [1, 4096]) {
      control.watch(times);
      const written = new Uint32Array(new Uint8Array(link.runIterator()).buffer);
      assert.equal(written.length, 3 * times);
      assert.deepEqual([...new Set(written)].sort(), [11, 22, 33]);
    }
  }

  it('of another kind cannot be run as an iterator', () => {
    const link = closing(object.program('fixture_syscall').attachTracepoint());
    assert.throws(() => link.runIterator(), { code: 'EINVAL', operation: 'bpf_iter_create' });
  });

  for (const source of ['its object', 'a pin']) {
    it(`from ${source} sees the messages of a sockmap's sockets until it is detached`, async () => {
      const control = new Control(object);
      const sockets = object.map('sockets');
      let program = object.program('fixture_verdict');
      if (source === 'a pin') {
        const pin = join(temporaryBpffs(later), 'verdict');
        program.pin(pin);
        program = closing(BpfProgram.open(pin));
      }
      program.attachSockmap(sockets);
      const socket = await connectedSocket();
      sockets.update(u32(0), u64(descriptor(socket)));
      await new Promise((sent) => socket.write('x', sent));
      assert.equal(control.messages, 1);
      sockets.delete(u32(0));
      program.detachSockmap(sockets);
      assert.throws(
        () => {
          program.detachSockmap(sockets);
        },
        { code: 'ENOENT', operation: 'bpf_prog_detach', object: 'fixture_verdict' },
      );
    });
  }

  it('is found by its pin, but then attaches to sockmaps only', () => {
    const pin = join(temporaryBpffs(later), 'program');
    const program = object.program('fixture_sock_ops_with_a_long_name');
    program.pin(pin);
    const again = closing(BpfProgram.open(pin));
    assert.deepEqual([again.id, again.name], [program.id, 'fixture_sock_op']);
    for (const attach of [
      () => again.attachCgroup('/'),
      () => again.attachTracepoint(),
      () => again.attachIterator(object.map('storage')),
    ]) {
      assert.throws(attach, { code: 'EOPNOTSUPP', object: 'fixture_sock_op' });
    }
  });

  it('is not taken for a map or a link, nor they for it', () => {
    const folder = temporaryBpffs(later);
    const pins = { program: join(folder, 'program'), map: join(folder, 'map'), link: join(folder, 'link') };
    const program = object.program('fixture_syscall');
    program.pin(pins.program);
    object.map('table').pin(pins.map);
    closing(program.attachTracepoint()).pin(pins.link);
    const openers = { program: BpfProgram, map: BpfMap, link: BpfLink } as const;
    for (const [kind, opener] of Object.entries(openers)) {
      for (const [pinned, path] of Object.entries(pins)) {
        if (pinned === kind) closing(opener.open(path));
        else assert.throws(() => opener.open(path), { code: 'EINVAL', object: path });
      }
      const missing = join(folder, 'missing');
      assert.throws(() => opener.open(missing), { code: 'ENOENT', operation: 'bpf_obj_get', object: missing });
    }
  });

  it('wants a BpfMap where a map is due', () => {
    const untyped = object.program('fixture_verdict') as unknown as Record<string, (map?: unknown) => void>;
    for (const method of ['attachSockmap', 'detachSockmap', 'attachIterator']) {
      for (const value of [undefined, null, 3, {}, object, Object.create(BpfMap)]) {
        // An iterator may do without.
        if (method === 'attachIterator' && value === undefined) continue;
        assert.throws(() => untyped[method]?.(value), TypeError);
      }
    }
  });
});
