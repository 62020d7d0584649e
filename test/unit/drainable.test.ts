/** What later versions rely on to drain a datapath of this one. */
import assert from 'node:assert/strict';
import { join } from 'node:path';

import { BpfObject, NativeError, type StructLayout } from '../../addon/index.js';
import { contractBreach, DRAIN_CONTRACT, STATES } from '../../controller/datapath/drainable.js';
import { Layout, type TypeSource } from '../../controller/datapath/layout.js';
import { ROOT } from './support.js';

const object = BpfObject.open(join(ROOT, 'build', 'bpf', 'slipstream.bpf.o'));

/** This version's types with one structure changed. */
function changed(struct: string, change: (layout: StructLayout) => StructLayout): TypeSource {
  return {
    structLayout: (name) => (name === struct ? change(object.structLayout(name)) : object.structLayout(name)),
    enumValues: (name) => object.enumValues(name),
  };
}

describe('the drain contract', () => {
  it('is kept by this version', () => {
    assert.equal(contractBreach(new Layout(object)), undefined);
  });

  it('does not change: pinned datapaths go by it', () => {
    assert.deepEqual(STATES.slice(0, 10), [
      'free',
      'half',
      'joining',
      'observed',
      'candidate',
      'approved',
      'inserted',
      'draining',
      'leaving',
      'closed',
    ]);
    assert.deepEqual(DRAIN_CONTRACT.maps, ['pairs', 'sockets', 'settings']);
    assert.deepEqual(DRAIN_CONTRACT.links, ['promote', 'identify']);
    assert.deepEqual(Object.keys(DRAIN_CONTRACT.members.pair), [
      'control',
      'closed',
      'insert[%]',
      'drained[%]',
      'drain_pass[%]',
      'direction[%].redirected_bytes',
      'direction[%].overtaken',
    ]);
    assert.deepEqual(Object.keys(DRAIN_CONTRACT.members.settings), [
      'abi_version',
      'paused',
      'pass',
      'leave',
      'attached_cgroup',
    ]);
  });

  it('names the member that is not there', () => {
    for (const [struct, member, name] of [
      ['pair', 'closed', 'pair.closed'],
      ['direction', 'overtaken', 'pair.direction[0].overtaken'],
      ['settings', 'leave', 'settings.leave'],
    ] as const) {
      const source = changed(struct, (layout) => ({
        ...layout,
        members: layout.members.filter((candidate) => candidate.name !== member),
      }));
      assert.equal(contractBreach(new Layout(source)), name);
    }
  });

  it('names the member that has another size', () => {
    const source = changed('pair', (layout) => ({
      ...layout,
      members: layout.members.map((member) => (member.name === 'control' ? { ...member, size: 8 } : member)),
    }));
    assert.equal(contractBreach(new Layout(source)), 'pair.control of 4 bytes');
  });

  it('takes a structure that is not there for a breach, and lets other errors pass', () => {
    const failing = (code: string): Layout =>
      new Layout({
        structLayout: () => {
          throw new NativeError('no', { code, errno: 1, operation: 'structLayout', object: '' });
        },
        enumValues: () => ({}),
      });
    assert.equal(contractBreach(failing('ENOENT')), 'pair.control');
    assert.throws(() => contractBreach(failing('EPERM')), NativeError);
  });
});
