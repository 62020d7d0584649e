/** What the gate's findings mean; the self-test itself is in test/kernel/gate.test.ts. */
import assert from 'node:assert/strict';

import type { Diagnosis } from '../../controller/probe/doctor.js';
import { renderDiagnosis } from '../../controller/probe/doctor.js';
import {
  describeMasks,
  type Finding,
  type FindingId,
  gateFacts,
  gateMasks,
  MEANING,
  PROBES,
} from '../../controller/probe/findings.js';
import { Settings } from '../../controller/datapath/settings.js';
import { objectLayout } from './support.js';

describe('gate', () => {
  const masks = (failed: string[], unknown: string[] = []): { failed: string[]; unknown: string[] } => ({
    failed,
    unknown,
  });

  it('knows every finding of the datapath by name, and no other', () => {
    const layout = objectLayout();
    assert.deepEqual(layout.labels('gate_finding').sort(), Object.keys(MEANING).sort());
    const ids: readonly string[] = Object.keys(MEANING);
    assert.ok(PROBES.every((probe) => ids.includes(probe)));
  });

  it('sorts findings into two masks', () => {
    const findings: Finding[] = [
      { id: 'order', status: 'ok', detail: '' },
      { id: 'splice', status: 'failed', detail: '' },
      { id: 'known_bug', status: 'unknown', detail: '' },
    ];
    assert.deepEqual(gateMasks(findings), { failed: ['splice'], unknown: ['known_bug'] });
  });

  it('keeps the masks where the datapath is pinned', () => {
    const layout = objectLayout();
    const settings = new Settings(layout, new ArrayBuffer(layout.size('settings')));
    assert.deepEqual(settings.gate, { failed: [], unknown: [] });
    settings.gate = masks(['fionread', 'accepted_bug'], ['splice']);
    assert.deepEqual(settings.gate, { failed: ['fionread', 'accepted_bug'], unknown: ['splice'] });
    settings.gate = masks([], ['redirect']);
    assert.deepEqual(settings.gate, { failed: [], unknown: ['redirect'] });
    assert.throws(() => {
      settings.gate = masks(['nonsense']);
    }, /no gate finding nonsense/);
  });

  const facts: [string, string[], string[], FindingId | undefined, string[]][] = [
    ['nothing wrong: nothing is forbidden, no hazard', [], [], undefined, []],
    ['what every kernel of today has', ['fionread', 'splice', 'signal'], [], undefined, ['fionread', 'splice']],
    ['a hazard that is not known is assumed', [], ['splice'], undefined, ['splice']],
    ['a failed self-test forbids', ['order'], [], 'order', []],
    ['a known bug forbids', ['splice', 'known_bug'], [], 'known_bug', ['splice']],
    ['a bug that may be there does not', [], ['known_bug'], undefined, []],
    ['nor one that was accepted', ['accepted_bug'], [], undefined, []],
  ];
  for (const [what, failed, unknown, refusal, hazards] of facts) {
    it(what, () => {
      const found = gateFacts({ failed, unknown });
      assert.deepEqual([found.refusal, [...found.hazards]], [refusal, hazards]);
    });
  }

  it('is told in one line', () => {
    assert.equal(describeMasks(masks([])), 'passed');
    assert.equal(describeMasks(masks(['splice'])), 'passed; splice: programs known to splice stay on TCP');
    assert.equal(
      describeMasks(masks(['splice', 'known_bug'], ['signal', 'end'])),
      'known_bug: nothing is promoted; splice: programs known to splice stay on TCP; not known: signal, end',
    );
  });

  it('has words for people in every entry', () => {
    for (const [id, { asks, consequence, remedy }] of Object.entries(MEANING)) {
      for (const text of [asks, consequence, remedy])
        assert.match(text, /^\w[^\n.]*[^.\s](\.\d+[^\n]*)?$/, `${id}: ${text}`);
    }
  });

  it("renders the doctor's findings with remedies and a verdict", () => {
    const diagnosis: Diagnosis = {
      able: true,
      kernel: '6.18.44',
      checks: [
        { id: 'privileges', status: 'ok', detail: 'root' },
        { id: 'splice', status: 'warn', detail: 'moves 0', remedy: 'exclude' },
      ],
    };
    assert.deepEqual(renderDiagnosis(diagnosis).split('\n'), [
      'ok       privileges  root',
      'warn     splice      moves 0',
      '                     → exclude',
      'kernel 6.18.44: connections can be accelerated, with 1 reservation',
    ]);
    assert.match(
      renderDiagnosis({ ...diagnosis, able: false }),
      /kernel 6\.18\.44: connections can't be accelerated here$/,
    );
  });
});
