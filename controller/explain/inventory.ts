/** What `policy init` goes by: the connections of this host with both ends here, from /proc and the pair table. */
import { type PairRecord, SIDES, STATES } from '../datapath/pair-table.js';
import type { InventoryConnection, InventoryEnd } from '../policy/inventory.js';
import type { WatchedPair } from '../policy/suggestion.js';
import { pairKey, socketKey, socketOf } from './find.js';
import { findHolders, type Holder, readHost } from './host.js';
import { localConnections } from './local.js';
import type { HostSocket } from './proc-net.js';

export interface Inventory {
  connections: InventoryConnection[];
  /** Ends whose process, and so their cgroup, can't be seen. */
  hidden: number;
  /** Network namespaces that were looked at. */
  namespaces: number;
}

/** A datapath that is loaded. */
export interface WatchedTable {
  records: readonly PairRecord[];
  judge: (record: PairRecord) => WatchedPair;
}

export function readInventory(table: WatchedTable | undefined): Inventory {
  const host = readHost();
  const records = (table?.records ?? []).filter(({ control }) => PAIRED.includes(control.state));
  const paired = new Set(records.flatMap(({ ends }) => ends.map(pairKey)));
  const unpaired = localConnections(host).filter((ends) => !ends.some((socket) => paired.has(socketKey(socket))));
  const sockets = new Map(records.flatMap(({ ends }) => ends).map((end) => [end, socketOf(end, host.sockets)]));
  const holders = findHolders(
    new Set([...unpaired.flat(), ...sockets.values()].flatMap((socket) => (socket?.inode ? [socket.inode] : []))),
  );
  const held = (socket: HostSocket | undefined): Holder | undefined => holders.get(socket?.inode ?? 0)?.[0];
  const ends = unpaired.map(([client, server]): [InventoryEnd, InventoryEnd] => [
    endOf(client, held(client)),
    endOf(server, held(server)),
  ]);
  const connections = [
    ...ends.map(([client, server]) => ({ client, server, seen: null })),
    ...records.map((record): InventoryConnection => {
      const watched = table?.judge(record);
      const [client, server] = SIDES.map((side): InventoryEnd => {
        const holder = held(sockets.get(record.ends[side]));
        const own = side === 0 ? watched?.client : watched?.server;
        // The table has the socket's cgroup, the one that rules go by; of who has not read yet only /proc has the name.
        return {
          cgroup: own?.cgroup ?? null,
          program: own?.program ?? holder?.program ?? null,
          port: record.ends[side].port,
        };
      }) as [InventoryEnd, InventoryEnd];
      return {
        client,
        server,
        seen: watched === undefined ? null : { outlook: watched.outlook, reason: watched.reason },
      };
    }),
  ];
  return {
    connections,
    hidden: ends.flat().filter(({ cgroup }) => cgroup === null).length,
    namespaces: host.namespaces,
  };
}

const PAIRED = STATES.filter((state) => !['free', 'half', 'joining', 'closed'].includes(state));

function endOf({ local }: HostSocket, holder: Holder | undefined): InventoryEnd {
  const cgroup = holder?.cgroup ?? null;
  // Outside of this cgroup namespace there are no names, and of a removed cgroup no rule is wanted.
  const isNamed = cgroup !== null && !cgroup.startsWith('/..') && !cgroup.endsWith(' (deleted)');
  return { cgroup: isNamed ? cgroup : null, program: holder?.program ?? null, port: local.port };
}
