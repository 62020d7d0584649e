/** What must hold on every route between two ends. */
import assert from 'node:assert/strict';
import { relative } from 'node:path';

import { SIDES } from '../../../controller/datapath/pair-table.js';
import { compilePolicy } from '../../../controller/policy/evaluate.js';
import { cgroupRoot } from '../../../controller/probe/host.js';
import { type EndRow, pairRows, type PairRow } from '../../../controller/view/pairs.js';
import { Connection } from '../support/endpoint.js';
import type { Sandbox, SpawnOptions } from '../support/sandbox.js';
import { EAGER, policyOf, type Stack } from '../support/stack.js';
import { interfaceBytes } from './network.js';
import type { Route } from './topologies.js';

/** An open connection, and what must be seen of it. */
export interface Subject extends Pick<Route, 'crosses' | 'ends'> {
  connection: Connection;
  /** The paths of both ends' cgroups, as policies name them. */
  cgroups: readonly [string, string];
}

/** 1 MiB each way. */
const MESSAGES = 256;
const SIZE = 4096;
const PAYLOAD = MESSAGES * SIZE;

/** A cgroup's path as policies name it. */
export const pathOf = (directory: string): string => `/${relative(cgroupRoot(), directory)}`;

/** The policy that leaves a cgroup on TCP. */
export const leaveOnTcp = (...cgroups: string[]): string =>
  `${EAGER}rules: [${cgroups.map((cgroup) => `{ name: ${cgroup}, cgroup: ${cgroup}, action: tcp }`).join(', ')}]\n`;

/** Connects the ends of a route, each in a cgroup of its own. */
export async function open(sandbox: Sandbox, route: Route, place = ''): Promise<Subject> {
  const placed = (options: SpawnOptions, name: string): [SpawnOptions, string] => {
    if (options.container !== undefined) return [options, options.container.cgroup];
    const cgroup = sandbox.makeCgroup(name + place);
    return [{ ...options, cgroup }, cgroup];
  };
  const [client, clientCgroup] = placed(route.client, 'client');
  const [server, serverCgroup] = placed(route.server, 'server');
  const connection = await Connection.open(sandbox, { ...route, client, server });
  const { crosses, ends } = route;
  return { connection, crosses, ends, cgroups: [pathOf(clientCgroup), pathOf(serverCgroup)] };
}

/**
 * Takes connections, new under a policy that leaves their clients on TCP, through all that concerns their route:
 * found with the right ends, on TCP, redirected, back on TCP. The bytes are compared, counted, and seen on the
 * interface or not.
 */
export async function checkRoutes(stack: Stack, subjects: readonly Subject[]): Promise<void> {
  const each = async (check: (subject: Subject) => Promise<void>): Promise<void> => {
    await Promise.all(subjects.map(check));
  };
  const apply = (policy: string): void => {
    stack.controller.applyPolicy(compilePolicy(policyOf(policy)));
  };
  // Else one that takes another's bytes would not be noticed.
  for (const [index, { connection }] of subjects.entries()) {
    const [out, back] = [String(2 * index + 100), String(2 * index + 101)];
    await connection.client.do(`key 2 ${out} ${back}`);
    await connection.server.do(`key 2 ${back} ${out}`);
  }

  await each(async (subject) => {
    await subject.connection.driveUntil(stack, 'refused by policy', ({ refusal }) => refusal === 'policy');
    assertRow(subject, rowOf(stack, subject));
    await crosses(subject);
  });
  assert.equal(stack.redirected().messages, 0, 'redirected although the policy says tcp');
  apply(EAGER);
  await each(async (subject) => {
    await redirects(stack, subject);
  });
  apply(leaveOnTcp(...new Set(subjects.map(({ cgroups }) => cgroups[1]))));
  await each(async (subject) => {
    const { demotion } = await subject.connection.inState(stack, 'observed');
    assert.equal(demotion, 'policy');
    assertRow(subject, rowOf(stack, subject));
    await crosses(subject);
  });
  const { pairs, unpaired } = stack.datapath.counters();
  assert.equal(pairs + stack.datapath.controllerCounters.adoptedPairs, subjects.length);
  assert.deepEqual(Object.fromEntries(Object.entries(unpaired).filter(([, count]) => count > 0)), {});
}

/** Has a connection promoted; then every byte is redirected, and none crosses the interface. */
async function redirects(stack: Stack, subject: Subject): Promise<void> {
  await subject.connection.promote(stack);
  const before = interfaceBytes(subject.crosses);
  await redirectsAll(stack, subject);
  const crossed = interfaceBytes(subject.crosses) - before;
  assert.ok(crossed < 0.05 * PAYLOAD, `${String(crossed)} bytes crossed though redirected`);
}

/** Of a promoted connection every byte is redirected. */
export async function redirectsAll(stack: Stack, subject: Subject): Promise<void> {
  const before = rowOf(stack, subject);
  await exchange(subject);
  const after = rowOf(stack, subject);
  assertRow(subject, after);
  assert.equal(after.id, before.id);
  assert.equal(after.reason, null);
  for (const direction of ['toServer', 'toClient'] as const) {
    const grown = (name: 'redirectedBytes' | 'redirectedMessages'): number =>
      after[direction][name] - before[direction][name];
    assert.deepEqual(
      { path: after[direction].path, bytes: grown('redirectedBytes'), messages: grown('redirectedMessages') },
      { path: 'direct', bytes: PAYLOAD, messages: MESSAGES },
      `${direction}: ${JSON.stringify(after)}`,
    );
  }
}

/** Every byte goes over the interface. */
async function crosses(subject: Subject): Promise<void> {
  const before = interfaceBytes(subject.crosses);
  await exchange(subject);
  const crossed = interfaceBytes(subject.crosses) - before;
  assert.ok(crossed > 2 * PAYLOAD, `only ${String(crossed)} bytes crossed on TCP`);
}

async function exchange({ connection }: Subject): Promise<void> {
  await connection.pingPong(MESSAGES, SIZE);
}

/** The connection as `pairs` shows it. */
export function rowOf(stack: Stack, { connection }: Pick<Subject, 'connection'>): PairRow {
  const record = connection.pairIn(stack);
  assert.ok(record, 'no pair');
  const id = `${String(record.slot)}.${String(record.control.generation)}`;
  const row = pairRows(stack.datapath, stack.cgroups).find((candidate) => candidate.id === id);
  assert.ok(row, `no row for ${id}`);
  return row;
}

/** What both ends know of themselves. */
type Known = Pick<EndRow, 'address' | 'port' | 'remoteAddress' | 'remotePort' | 'pid' | 'program' | 'cgroup' | 'netns'>;

/** Names, cgroups, namespaces, addresses and ports are those that the ends know of themselves. */
export function assertRow({ connection, ends, cgroups }: Subject, row: PairRow): void {
  const { client, server, clientPort, port, seenPort, netns } = connection;
  const own = [
    { port: clientPort, remotePort: port },
    { port, remotePort: seenPort },
  ] as const;
  for (const side of SIDES) {
    const wanted: Known = {
      ...own[side],
      ...ends[side],
      pid: [client, server][side]!.pid,
      program: 'endpoint',
      cgroup: cgroups[side],
      netns: netns[side],
    };
    const end = [row.client, row.server][side]!;
    assert.deepEqual(Object.fromEntries(Object.keys(wanted).map((name) => [name, end[name as keyof Known]])), wanted);
  }
}
