/**
 * The slot table against a model of it: a list of the connections that are open. fast-check chooses what they do, on
 * real sockets, in a table that is often full. SLOT_TABLE_SECONDS and SLOT_TABLE_SEED take the place of CI's run.
 */
import assert from 'node:assert/strict';

import fc from 'fast-check';

import type { Control } from '../../controller/datapath/pair-table.js';
import { Pairing } from './support/pairing.js';
import { Python } from './support/python.js';
import { needsRoot, Sandbox } from './support/sandbox.js';
import { eventually, Stack } from './support/stack.js';

const SECONDS = Number(process.env['SLOT_TABLE_SECONDS'] ?? 15);
const SEED = Number(process.env['SLOT_TABLE_SEED'] ?? 1);
const SLOTS = 4;

/** Both ends are of one process, in its tables `c` and `s` by number. */
const SOCKETS = `
c, s = {}, {}
l = listener()

def open_pair(i):
    c[i], s[i] = connection(l)

# Reset before accept(2): the server's socket is established, and nobody ever holds it.
def reset_early():
    a = client(l)
    reset(a)
    l.accept()[0].close()

def refused():
    a = socket.socket()
    a.bind((HOME, 0))
    port = a.getsockname()[1]
    b = socket.socket()
    try:
        b.connect((HOME, port))
        assert False, 'connected to nobody'
    except ConnectionRefusedError:
        pass
    a.close()
    b.close()

# Two sockets that connect to each other at once: neither is a server.
def simultaneous():
    a = socket.socket()
    a.bind((HOME, 0))
    a.connect(a.getsockname())
    a.close()

def end(i, how):
    a, b = c.pop(i), s.pop(i)
    if how == 'client':
        a.close(); receive_end(b); b.close()
    elif how == 'server':
        b.close(); receive_end(a); a.close()
    elif how == 'both':
        a.shutdown(socket.SHUT_WR); b.shutdown(socket.SHUT_WR); a.close(); b.close()
    elif how == 'reset':
        reset(a); b.close()
    elif how == 'reset server':
        reset(b); a.close()
    else:
        disconnect(a); b.close(); a.close()

def receive_end(b):
    b.settimeout(10)
    try:
        while b.recv(65536):
            pass
    except ConnectionResetError:
        pass
`;

const ENDS = ['client', 'server', 'both', 'reset', 'reset server', 'disconnect'] as const;

/** Connections that are open, oldest first, and whether each has a slot. */
interface Model {
  open: { id: number; paired: boolean }[];
  made: number;
}

interface Real {
  stack: Stack;
  python: Python;
  /** Control words that were seen and are out of date, with their slots. */
  stale: [number, Control][];
  generations: number[];
}

type Command = fc.AsyncCommand<Model, Real>;

/** What must hold whenever nothing is under way. */
async function check(model: Model, real: Real): Promise<void> {
  const { pairs } = real.stack.datapath;
  const taken = model.open.filter(({ paired }) => paired).length;
  await eventually(`${String(SLOTS - taken)} free slots`, () => pairs.tally().free === SLOTS - taken, 5000);
  const sockets = new Set<bigint | string>();
  for (let slot = 0; slot < SLOTS; slot++) {
    const control = pairs.control(slot);
    assert.ok(control.generation >= (real.generations[slot] ?? 0), `slot ${String(slot)} has an earlier generation`);
    real.generations[slot] = control.generation;
    const record = control.state === 'free' ? undefined : pairs.read(slot);
    for (const { port, remotePort } of record?.ends ?? []) sockets.add(`${String(port)} ${String(remotePort)}`);
  }
  assert.equal(sockets.size, 2 * taken, 'each slot has two sockets of its own');
  for (const [slot, control] of real.stale) {
    if (pairs.control(slot).generation === control.generation) continue;
    assert.equal(pairs.change(slot, control, 'leaving'), undefined, 'a word of an earlier pair changes nothing');
  }
  const { releaseFailed, unpaired } = real.stack.datapath.counters();
  assert.deepEqual({ releaseFailed, released: unpaired['released'] }, { releaseFailed: 0, released: 0 });
}

const command = (
  name: string,
  possible: (model: Readonly<Model>) => boolean,
  act: (model: Model, real: Real) => Promise<void>,
): Command => ({
  check: possible,
  run: async (model, real) => {
    await act(model, real);
    await check(model, real);
  },
  toString: () => name,
});

const always = (): boolean => true;
const someOpen = ({ open }: Readonly<Model>): boolean => open.length > 0;
const at = <T>(list: readonly T[], index: number): T => list[index % list.length]!;

const commands = [
  fc.constant(
    command(
      'open',
      ({ open }) => open.length < SLOTS + 2,
      async (model, { python }) => {
        const id = model.made++;
        const paired = model.open.filter((connection) => connection.paired).length < SLOTS;
        await python.run(`open_pair(${String(id)})`);
        model.open.push({ id, paired });
      },
    ),
  ),
  fc.tuple(fc.nat(SLOTS + 1), fc.constantFrom(...ENDS)).map(([index, how]) =>
    command(`end(${String(index)}, ${how})`, someOpen, async (model, { stack, python, stale }) => {
      const { id } = at(model.open, index);
      for (let slot = 0; slot < SLOTS; slot++) stale.push([slot, stack.datapath.pairs.control(slot)]);
      stale.splice(0, Math.max(0, stale.length - 32));
      await python.run(`end(${String(id)}, '${how}')`);
      model.open = model.open.filter((connection) => connection.id !== id);
    }),
  ),
  fc.nat(SLOTS + 1).map((index) =>
    command(`talk(${String(index)})`, someOpen, async (model, { stack, python }) => {
      const { id, paired } = at(model.open, index);
      const port = await python.run<number>(`port(c[${String(id)}])`);
      const state = (): string | undefined =>
        stack.records().find(({ ends: [end] }) => end.port === port)?.control.state;
      for (let round = 0; round < 50; round++) {
        await python.run(`exchange(c[${String(id)}], s[${String(id)}], 12, 300)`);
        if (!paired || state() === 'inserted') break;
      }
      await python.run(`exchange(c[${String(id)}], s[${String(id)}], 4, 300)`);
    }),
  ),
  fc.nat(SLOTS - 1).map((slot) =>
    command(`demote(${String(slot)})`, always, async (_, { stack }) => {
      const { pairs } = stack.datapath;
      const control = pairs.control(slot);
      if (control.state !== 'inserted') return;
      assert.ok(stack.controller.demote(slot, control, 'requested', 0n));
      await eventually('it has left', () => pairs.control(slot).state === 'observed');
    }),
  ),
  ...(['reset_early()', 'refused()', 'simultaneous()'] as const).map((line) =>
    fc.constant(
      command(line, always, async (_, { python }) => {
        await python.run(line);
      }),
    ),
  ),
];

describe('slot table', function () {
  this.timeout(60_000 + 2000 * SECONDS);
  let sandbox: Sandbox;

  before(function () {
    needsRoot(this);
  });

  beforeEach(() => {
    sandbox = new Sandbox('slots');
  });

  afterEach(async () => {
    await sandbox.dispose();
  });

  it(`is what a list of open connections says, whatever they do, seed ${String(SEED)}`, async () => {
    const stack = new Stack(sandbox, { maxPairs: SLOTS });
    const python = new Python(sandbox);
    await python.run(SOCKETS);
    const generations: number[] = [];
    const run = async (chosen: Iterable<Command>): Promise<void> => {
      const model: Model = { open: [], made: 0 };
      try {
        await fc.asyncModelRun(() => ({ model, real: { stack, python, stale: [], generations } }), chosen);
      } finally {
        await python.run("[end(i, 'reset') for i in list(c)]");
      }
      await eventually('all slots are free', () => stack.datapath.pairs.tally().free === SLOTS);
    };
    let last = Promise.resolve();
    await fc.assert(
      fc.asyncProperty(fc.commands(commands, { maxCommands: 40, size: 'max' }), (chosen) => (last = run(chosen))),
      // Shrinking ends with the time, too.
      { seed: SEED, numRuns: 2 ** 31 - 1, interruptAfterTimeLimit: SECONDS * 1000 },
    );
    await last; // the time is over in its middle, and fast-check does not wait
    const { pairs, unpaired, closedPairs } = stack.datapath.counters();
    assert.ok(pairs > 20 && (unpaired['table_full'] ?? 0) > 0, JSON.stringify({ pairs, closedPairs, unpaired }));
    assert.ok(stack.redirected().messages > 0);
    await new Pairing(sandbox, stack).nothingLeaked(SLOTS);
  });
});
