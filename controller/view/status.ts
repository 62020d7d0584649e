/** `status`: the datapath in one screen. */
import { DirectoryLock } from '../../addon/index.js';
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath, requireAbi } from '../datapath/datapath.js';
import type { State } from '../datapath/pair-table.js';
import type { GateMasks } from '../datapath/settings.js';
import { decodeMeasurement, type Measurement } from '../decisions/measurement.js';
import { describeMasks } from '../probe/findings.js';
import { cgroupRoot, isBpffsDirectory, requireRoot } from '../probe/host.js';
import { formatBytes, renderTable } from './pairs.js';
import { cgroupTotals } from './totals.js';

export interface Status {
  version: string;
  pinDir: string;
  loaded: boolean;
  /** Present when loaded. */
  datapath?: {
    version: string;
    abiVersion: number;
    controllerRunning: boolean;
    paused: boolean;
    /** What `bench --port` measures at the moment. */
    measurement: Measurement | null;
    attachedCgroup: string | null;
    /** What the kernel gate found wrong, or could not find out. */
    gate: GateMasks;
    loadedSeconds: number;
    maxPairs: number;
    pairs: Record<State, number>;
    pairsTotal: number;
    promotions: number;
    redirectedBytes: number;
    redirectedMessages: number;
    passed: Record<string, number>;
    refusals: Record<string, number>;
    demotions: Record<string, number>;
    unpaired: Record<string, number>;
    eventsLost: number;
  };
}

/** @throws UserError without root, or if what is pinned there is of another ABI version. */
export function readStatus(pinDir: string, objectFile: string, version: string): Status {
  requireRoot('status');
  if (isBpffsDirectory(pinDir)) requireAbi(pinDir);
  if (!isBpffsDirectory(pinDir) || Datapath.pinState(pinDir) !== 'complete') return { version, pinDir, loaded: false };
  const datapath = Datapath.adopt(objectFile, pinDir);
  try {
    return {
      version,
      pinDir,
      loaded: true,
      datapath: datapathStatus(datapath, new CgroupNames(cgroupRoot()), isHeld(pinDir)),
    };
  } finally {
    datapath.close();
  }
}

/** What is loaded and what it did. */
export function datapathStatus(
  datapath: Datapath,
  cgroups: CgroupNames,
  controllerRunning: boolean,
): NonNullable<Status['datapath']> {
  const { settings, controllerCounters } = datapath;
  const counters = datapath.counters();
  const totals = cgroupTotals(datapath, cgroups);
  return {
    version: settings.version,
    abiVersion: settings.abiVersion,
    controllerRunning,
    paused: settings.paused,
    measurement: decodeMeasurement(settings.measurement, process.hrtime.bigint()) ?? null,
    attachedCgroup: cgroups.path(settings.attachedCgroup) ?? null,
    gate: settings.gate,
    loadedSeconds: Number(process.hrtime.bigint() - settings.loadedNs) / 1e9,
    maxPairs: settings.maxPairs,
    pairs: datapath.pairs.tally(),
    pairsTotal: counters.pairs + controllerCounters.adoptedPairs,
    promotions: controllerCounters.promotions,
    redirectedBytes: totals.reduce((sum, { bytes }) => sum + bytes, 0),
    redirectedMessages: totals.reduce((sum, { messages }) => sum + messages, 0),
    passed: counters.passed,
    refusals: controllerCounters.refusals,
    demotions: controllerCounters.demotions,
    unpaired: counters.unpaired,
    eventsLost: counters.eventsLost,
  };
}

/** A controller holds the lock of its pin directory for as long as it lives. */
export function isHeld(pinDir: string): boolean {
  const lock = DirectoryLock.acquire(pinDir);
  lock?.release();
  return lock === undefined;
}

export function renderStatus({ version, pinDir, datapath }: Status): string {
  if (datapath === undefined) return `slipstream-bpf ${version}: not loaded (nothing pinned in ${pinDir})`;
  const { free, ...states } = datapath.pairs;
  const present = Object.entries(states).filter(([, count]) => count > 0);
  const messages = datapath.redirectedMessages;
  return renderTable([
    ['version', `${version}, datapath loaded by ${datapath.version}`],
    ['controller', datapath.controllerRunning ? 'running' : 'not running; live pairs stay as they are'],
    ...(datapath.measurement === null
      ? []
      : [
          [
            'measured',
            `port ${String(datapath.measurement.port)}, by bench: its pairs change between TCP and the direct path`,
          ],
        ]),
    ['attached to', `${datapath.attachedCgroup ?? 'a cgroup that is gone'}, pinned in ${pinDir}`],
    ['kernel gate', describeMasks(datapath.gate)],
    ['loaded for', `${datapath.loadedSeconds.toFixed(0)} s${datapath.paused ? ', paused: no new pairs' : ''}`],
    ['pairs', present.length === 0 ? 'none' : present.map(([state, count]) => `${String(count)} ${state}`).join(', ')],
    ['table', `${String(datapath.maxPairs - free)} of ${String(datapath.maxPairs)} slots`],
    ['since loading', `${String(datapath.pairsTotal)} paired, ${String(datapath.promotions)} promotions`],
    ['redirected', `${String(messages)} messages, ${formatBytes(datapath.redirectedBytes)}`],
    ['passed', reasons(datapath.passed)],
    ['refused', reasons(datapath.refusals)],
    ['demoted', reasons(datapath.demotions)],
    ['not paired', reasons(datapath.unpaired)],
    ['events lost', String(datapath.eventsLost)],
  ]);
}

function reasons(counts: Record<string, number>): string {
  const seen = Object.entries(counts).filter(([, count]) => count > 0);
  return seen.length === 0 ? 'none' : seen.map(([reason, count]) => `${String(count)} ${reason}`).join(', ');
}
