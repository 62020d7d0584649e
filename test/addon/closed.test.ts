// Every use of an object after close() is an error with code EBADF; closing again is none.
import assert from 'node:assert/strict';
import { join } from 'node:path';

import { BpfObject, RingBuffer } from '../../addon/index.js';
import { cleanUpAfterEach, fixture, loadFixture, needsRoot, temporaryBpffs, u32, u64 } from './support.js';

describe('a closed object', () => {
  const later = cleanUpAfterEach();

  function assertClosed(uses: Record<string, () => unknown>): void {
    for (const [name, use] of Object.entries(uses)) {
      assert.throws(use, { name: 'NativeError', code: 'EBADF', errno: 9 }, name);
    }
  }

  it('of class BpfObject', () => {
    const object = BpfObject.open(fixture());
    object.close();
    object.close();
    assertClosed({
      structLayout: () => object.structLayout('fixture_inner'),
      enumValues: () => object.enumValues('fixture_color'),
      setMaxEntries: () => {
        object.setMaxEntries('table', 1);
      },
      load: () => {
        object.load();
      },
      map: () => object.map('table'),
      program: () => object.program('fixture_verdict'),
      mapNames: () => object.mapNames(),
      programNames: () => object.programNames(),
    });
  });

  it('of class BpfMap', function () {
    needsRoot(this);
    const object = loadFixture(later);
    const program = object.program('fixture_verdict');
    const map = object.map('table');
    map.close();
    map.close();
    assertClosed({
      pin: () => {
        map.pin('/nowhere');
      },
      info: () => map.info(),
      lookup: () => map.lookup(u64(1)),
      update: () => {
        map.update(u64(1), u32(1));
      },
      delete: () => map.delete(u64(1)),
      lookupAndDelete: () => map.lookupAndDelete(u64(1)),
      keys: () => map.keys(),
      push: () => {
        map.push(u32(1));
      },
      fill: () => {
        map.fill(1);
      },
      mmap: () => map.mmap(),
      mmapReadOnly: () => map.mmapReadOnly(),
      RingBuffer: () => new RingBuffer(map, () => undefined),
      attachSockmap: () => {
        program.attachSockmap(map);
      },
      attachIterator: () => program.attachIterator(map),
    });
  });

  it('of class BpfProgram', function () {
    needsRoot(this);
    const object = loadFixture(later);
    const map = object.map('sockets');
    const program = object.program('fixture_verdict');
    program.close();
    program.close();
    assert.equal(program.name, 'fixture_verdict');
    assertClosed({
      pin: () => {
        program.pin('/nowhere');
      },
      attachCgroup: () => program.attachCgroup('/'),
      attachTracepoint: () => program.attachTracepoint(),
      attachIterator: () => program.attachIterator(map),
      attachSockmap: () => {
        program.attachSockmap(map);
      },
      detachSockmap: () => {
        program.detachSockmap(map);
      },
    });
  });

  it('of class BpfObject, as its programs see it', function () {
    needsRoot(this);
    const object = loadFixture(later);
    const map = object.map('storage');
    const program = object.program('fixture_syscall');
    object.close();
    assertClosed({
      attachCgroup: () => program.attachCgroup('/'),
      attachTracepoint: () => program.attachTracepoint(),
      attachIterator: () => program.attachIterator(map),
    });
    program.pin(join(temporaryBpffs(later), 'program')); // it is still a program
    assert.equal(map.info().name, 'storage');
  });

  it('of class BpfLink', function () {
    needsRoot(this);
    const link = loadFixture(later).program('fixture_syscall').attachTracepoint();
    link.close();
    link.close();
    assertClosed({
      pin: () => {
        link.pin('/nowhere');
      },
      info: () => link.info(),
      detach: () => {
        link.detach();
      },
      runIterator: () => link.runIterator(),
    });
  });
});
