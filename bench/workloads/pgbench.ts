/** PostgreSQL and pgbench, on a database without durability. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';

import type { Child } from '../../test/kernel/support/sandbox.js';
import type { Place } from '../place.js';
import { numberIn, type Program, type Workload } from '../workload.js';

/** 100,000 accounts each. */
const SCALE = 5;
/** PostgreSQL refuses to be root. */
const AS_POSTGRES = ['--reuid', 'postgres', '--regid', 'postgres', '--clear-groups'];
const SETTINGS = {
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  autovacuum: 'off',
  max_wal_size: '4GB',
};

/** Debian keeps them off the path: one directory a version. */
function program(name: string): string {
  const root = '/usr/lib/postgresql';
  const [newest] = existsSync(root) ? readdirSync(root).sort((a, b) => Number(b) - Number(a)) : [];
  return join(root, newest ?? 'none', 'bin', name);
}

const NEEDS: Program[] = ['postgres', 'initdb', 'pgbench'].map((name) => ({
  command: program(name),
  package: 'postgresql',
}));

export function pgbench(script: 'select only' | 'TPC-B', clients: number): Workload {
  return {
    name: `pgbench ${script}`,
    size: null,
    clients,
    unit: 'transactions/s',
    higherIsBetter: true,
    needs: NEEDS,
    unix: true,
    redirects: true,
    leastSeconds: 1,
    start,
    run: async (place, transport, seconds) => {
      const where = place.at(
        transport,
        ({ address, port }) => ['-h', address, '-p', String(port)],
        (path) => ['-h', dirname(path), '-p', String(place.listen.port)],
      );
      const threads = Math.min(clients, 2);
      const load = ['-n', '-c', String(clients), '-j', String(threads), '-T', String(Math.max(1, Math.round(seconds)))];
      if (script === 'select only') load.push('-S');
      const lines = await place.client(program('pgbench'), [...where, '-U', 'postgres', ...load, 'postgres']);
      return numberIn(lines, /^tps = ([\d.]+)/);
    },
  };
}

/** A database cluster that all rows copy. */
const templates = new Map<string, string>();

async function start(place: Place): Promise<void> {
  const data = join(place.directory, 'data');
  const known = templates.get(dirname(place.directory));
  if (known === undefined) {
    mkdirSync(data, { mode: 0o700 });
    execFileSync('chown', ['postgres:', data, place.directory]);
    // In the row's directory: whoever is postgres may not be allowed to be here.
    const options = { stdio: 'pipe', cwd: place.directory } as const;
    execFileSync(
      'setpriv',
      [...AS_POSTGRES, program('initdb'), '-D', data, '-A', 'trust', '-N', '-E', 'UTF8', '--locale', 'C'],
      options,
    );
  } else {
    cpSync(known, data, { recursive: true, preserveTimestamps: true });
    execFileSync('chown', ['-R', 'postgres:', data, place.directory]);
    execFileSync('chmod', ['700', data]);
  }
  execFileSync('sh', ['-c', 'echo "host all all all trust" >>"$0/pg_hba.conf"', data]);
  const server = await serve(place, data);
  if (known !== undefined) return;
  const where = ['-h', dirname(place.unixPath), '-p', String(place.listen.port), '-U', 'postgres'];
  await place.client(program('pgbench'), ['-i', '-q', '-s', String(SCALE), ...where, 'postgres']);
  place.takeCost();
  server.signal('SIGINT'); // fast shutdown
  await server.exited();
  const template = join(dirname(place.directory), 'pgbench-template');
  cpSync(data, template, { recursive: true, preserveTimestamps: true });
  templates.set(dirname(place.directory), template);
  await serve(place, data);
}

async function serve(place: Place, data: string): Promise<Child> {
  const { address, port } = place.listen;
  const settings = { ...SETTINGS, listen_addresses: address, port, unix_socket_directories: dirname(place.unixPath) };
  const server = place.server('setpriv', [
    ...AS_POSTGRES,
    ...[program('postgres'), '-D', data],
    ...Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${String(value)}`]),
  ]);
  await server.until(({ stderr }) => (stderr.includes('ready to accept connections') ? true : undefined));
  return server;
}
