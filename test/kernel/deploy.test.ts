/** The DaemonSet's container, run by runc from the manifest itself: what it accelerates, how it ends, what it needs. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { attachedPrograms, BpfLink, objectExists } from '../../addon/index.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { promotesBy } from '../../controller/probe/kernel.js';
import { ConfigMapVolume } from './support/config-map.js';
import { type Container, whyNoContainers } from './support/container.js';
import { agent, agentContainer, CAPABILITIES, daemonSet, type Differences, podSpec } from './support/daemonset.js';
import { Connection } from './support/endpoint.js';
import { type Child, needsRoot, Sandbox, skip } from './support/sandbox.js';
import { eventually } from './support/stack.js';

const EAGER = 'version: 1\ndefaults: { promoteAfter: 2 }\n';
const HOST_CGROUPS = '/sys/fs/cgroup';

/** What a container without one of its rights is asked to do, past all checks of our own. */
const LOAD = `const { Datapath } = await import('/opt/slipstream-bpf/build/js/controller/datapath/datapath.js');
  Datapath.load({ objectFile: '/opt/slipstream-bpf/build/bpf/slipstream.bpf.o', pinDir: undefined, maxPairs: 16, version: 'test',
    cgroupDir: process.argv[1] }).remove();`;

describe('the DaemonSet by runc', function () {
  this.timeout(60_000);
  let sandbox: Sandbox;
  let policy: ConfigMapVolume;
  let netns: string;
  let started = 0;

  before(function () {
    needsRoot(this);
    const reason = whyNoContainers();
    if (reason !== undefined) skip(this, reason);
    if (!cgroupRoot().startsWith(HOST_CGROUPS)) skip(this, `cgroup v2 is not mounted at or below ${HOST_CGROUPS}`);
  });

  beforeEach(() => {
    sandbox = new Sandbox('deploy');
    policy = new ConfigMapVolume(join(sandbox.dir, 'config-map'), { 'policy.yaml': EAGER });
    netns = sandbox.makeNetns('pod');
    mkdirSync(join(sandbox.dir, 'state'));
  });

  afterEach(() => sandbox.dispose());

  function makeContainer(differences: Partial<Differences> = {}): Container {
    const { hostPaths, ...others } = differences;
    return agentContainer(sandbox, `agent-${String(++started)}`, {
      hostPaths: {
        '/sys/fs/bpf': join(sandbox.dir, 'bpf'),
        '/var/lib/slipstream-bpf': join(sandbox.dir, 'state'),
        ...hostPaths,
      },
      configMaps: { 'slipstream-bpf': policy.dir },
      netns,
      ...others,
    });
  }

  /** As the container sees a cgroup of the host. */
  function inside(cgroup: string): string {
    return `/host${cgroup}`;
  }

  /** The agent as the manifest starts it, for the sandbox's cgroup instead of the whole host. */
  function spawnAgent(container: Container, ...more: string[]): Child {
    const args = [...agent.args, '--cgroup', inside(sandbox.cgroup), '--log-level', 'debug', ...more];
    return sandbox.spawn('slipstream-bpf', args, { cgroup: null, container });
  }

  async function startAgent(container: Container, ...more: string[]): Promise<Child> {
    const child = spawnAgent(container, ...more);
    await child.until(({ lines }) => lines.find((line) => line.includes('metrics at')));
    return child;
  }

  /** Runs a program beside the agent, as `kubectl exec` does. */
  async function exec(container: Container, ...args: string[]): Promise<{ code: number | null; stdout: string }> {
    const [program = '', ...rest] = container.execCommand('slipstream-bpf', args);
    const child = sandbox.spawn(program, rest, { cgroup: null });
    const code = await child.exited();
    return { code, stdout: child.lines.join('\n') };
  }

  /** From the pod's network, as the kubelet and Prometheus ask; undefined unless the answer is 200. */
  async function get(path: string): Promise<string | undefined> {
    const port = agent.ports.find(({ name }) => name === agent.readinessProbe.httpGet.port)?.containerPort;
    const url = `http://127.0.0.1:${String(port)}${path}`;
    const child = sandbox.spawn('busybox', ['wget', '-q', '-O', '-', url], { cgroup: null, netns });
    return (await child.exited()) === 0 ? child.lines.join('\n') : undefined;
  }

  async function metric(name: string): Promise<number> {
    const body = await get('/metrics');
    assert.ok(body !== undefined);
    return body
      .split('\n')
      .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
  }

  const redirected = (): Promise<number> => metric('slipstream_redirected_messages_total');

  /** Exchanges messages until more have been redirected. */
  async function accelerate(connection: Connection): Promise<number> {
    const before = await redirected();
    const deadline = Date.now() + 20_000;
    for (;;) {
      await connection.pingPong(64, 500);
      const now = await redirected();
      if (now > before) return now;
      assert.ok(Date.now() < deadline, 'nothing is redirected');
    }
  }

  /** Nothing of the datapath, on the host. */
  function assertGone(programId: number): Promise<unknown> {
    assert.equal(existsSync(sandbox.pinDir), false, 'pins are left');
    assert.deepEqual(attachedPrograms(sandbox.cgroup, 'sock_ops'), []);
    return eventually('the programs are freed', () => !objectExists('program', programId));
  }

  /** Id of the sockops program that is pinned. */
  function programId(): number {
    const link = BpfLink.open(join(sandbox.pinDir, 'link_identify'));
    const { programId: id } = link.info();
    link.close();
    return id;
  }

  it('accelerates processes of the host, shows them, and answers what the kubelet and Prometheus ask', async () => {
    const container = makeContainer();
    const child = await startAgent(container);
    const { readinessProbe, livenessProbe, startupProbe } = agent;
    for (const probe of [readinessProbe, livenessProbe, startupProbe]) {
      assert.equal(await get(probe.httpGet.path), 'ok', probe.httpGet.path);
    }
    const { annotations } = daemonSet.spec.template.metadata;
    assert.match((await get(annotations['prometheus.io/path'] ?? '')) ?? '', /^slipstream_build_info\{/m);

    const clients = sandbox.makeCgroup('clients');
    const c = await Connection.open(sandbox, { client: { cgroup: clients } });
    await accelerate(c);
    const { stdout } = await exec(container, 'pairs', '--json');
    const [row] = (JSON.parse(stdout) as { state: string; client: object; server: object }[]).filter(
      ({ state }) => state === 'inserted',
    );
    const names = ({ pid, program, cgroup }: Record<string, unknown>): object => ({ pid, program, cgroup });
    assert.deepEqual(names({ ...row?.client }), {
      pid: c.client.pid,
      program: 'endpoint',
      cgroup: `${sandbox.cgroupPath}/clients`,
    });
    assert.deepEqual(names({ ...row?.server }), { pid: c.server.pid, program: 'endpoint', cgroup: sandbox.cgroupPath });

    const doctor = await exec(container, 'doctor', '--json');
    const { checks } = JSON.parse(doctor.stdout) as { checks: { id: string; status: string; detail: string }[] };
    const status = (id: string): unknown => checks.find((check) => check.id === id)?.status;
    assert.equal(doctor.code, 0, doctor.stdout);
    for (const id of ['privileges', 'cgroup v2', 'waking', 'datapath', 'self-test', 'redirect']) {
      assert.equal(status(id), 'ok', `${id}: ${doctor.stdout}`);
    }
    assert.equal(child.stderr.includes('"level":50'), false, child.stderr);
  });

  it('with --adopt, takes a connection that was there before', async () => {
    const c = await Connection.open(sandbox);
    await c.pingPong(10, 100);
    const child = await startAgent(makeContainer(), '--adopt');
    await child.until(({ stderr }) => (stderr.includes('connections adopted') ? true : undefined));
    await accelerate(c);
    assert.equal(child.stderr.includes('could not be adopted'), false, child.stderr);
  });

  it('wakes an edge-triggered reader in another container', async () => {
    await startAgent(makeContainer());
    const c = await Connection.open(sandbox, { sockopts: ['TCP_NODELAY 1'] });
    await accelerate(c);
    await c.server.do('epolladd 2 EPOLLIN|EPOLLET');
    // Once a second a message uses TCP whatever else holds: then both lie in one queue, and there is nothing to wake for.
    for (let attempt = 0; ; attempt++) {
      await c.pingPong(1, 100);
      await c.server.run('epollwait 0'); // forgets the edges so far
      await c.client.do('send 2 100');
      await c.client.do('setsockopt 2 SO_ZEROCOPY 1');
      await c.client.do('send 2 100');
      await c.client.do('setsockopt 2 SO_ZEROCOPY 0');
      assert.equal((await c.server.do('epollwait 5000')).returned, 1);
      const { returned } = await c.server.do('recv 2 1000');
      if (returned === 100) break;
      assert.ok(attempt < 10, 'the messages never lie in two queues');
    }
    assert.equal((await c.server.do('epollwait 5000')).returned, 1, 'not woken');
    assert.equal((await c.server.do('recv 2 1000')).returned, 100);
  });

  it('drains within the grace period when the pod ends, without losing a byte, and leaves nothing', async () => {
    const container = makeContainer();
    const child = await startAgent(container);
    const c = await Connection.open(sandbox);
    await accelerate(c);
    const id = programId();
    // Both ends compare every byte.
    const end = new AbortController();
    const traffic = (async (): Promise<void> => {
      while (!end.signal.aborted) await c.pingPong(8, 500);
    })();
    traffic.catch(() => undefined); // awaited below
    const begin = performance.now();
    child.signal('SIGTERM');
    assert.equal(await child.exited(), 0, child.stderr);
    assert.ok(performance.now() - begin < podSpec.terminationGracePeriodSeconds * 1000);
    assert.match(child.lines.at(-1) ?? '', /nothing is left loaded/);
    await assertGone(id);
    end.abort();
    await traffic;
    await c.pingPong(50, 500);
    container.remove();
    assert.equal(existsSync(container.cgroup), false);
  });

  it('a killed agent leaves connections as they are, and the next pod takes them over', async () => {
    const first = makeContainer();
    const child = await startAgent(first);
    const c = await Connection.open(sandbox);
    await accelerate(c);
    const id = programId();
    first.kill('SIGKILL');
    await child.exited();
    await c.pingPong(50, 500);
    first.remove();

    const next = await startAgent(makeContainer());
    assert.match(next.lines.join('\n'), /adopted the datapath/);
    assert.equal(programId(), id);
    await accelerate(c);
    assert.equal(await metric('slipstream_promotions_total'), 1, 'it was promoted anew');
    next.signal('SIGTERM');
    assert.equal(await next.exited(), 0, next.stderr);
    await assertGone(id);
    await c.pingPong(50, 500);
  });

  it('a change of the ConfigMap takes hold without a restart, time and again', async () => {
    const child = await startAgent(makeContainer());
    const c = await Connection.open(sandbox);
    await accelerate(c);
    for (let round = 0; round < 2; round++) {
      const from = child.stderr.length;
      policy.update({ 'policy.yaml': `${EAGER}rules: [{ name: r, ports: [${String(c.port)}], action: tcp }]\n` });
      await child.until(({ stderr }) => stderr.slice(from).includes('policy reloaded') || undefined);
      assert.equal(await metric('slipstream_demotions_total'), round + 1);
      policy.update({ 'policy.yaml': EAGER });
      await accelerate(c);
    }
    policy.update({ 'policy.yaml': 'version: 1\ndefaults: { action: faster }\n' });
    await child.until(({ stderr }) => stderr.includes('policy not reloaded') || undefined);
    await accelerate(c);
    assert.match((await get('/metrics')) ?? '', /^slipstream_policy_reloads_total\{result="failure"\} 1$/m);
  });

  /** The one line that a start which fails leaves. */
  async function sentence(child: Child): Promise<string> {
    assert.notEqual(await child.exited(), 0);
    const lines = child.stderr.split('\n').filter((line) => line !== '' && !line.startsWith('{'));
    assert.equal(lines.length, 1, child.stderr);
    return lines[0] ?? '';
  }

  it('refuses to run beside another agent, whichever its pin directory', async () => {
    await startAgent(makeContainer());
    // Each pod has a network of its own.
    const second = spawnAgent(makeContainer({ netns: sandbox.makeNetns('second') }));
    assert.match(await sentence(second), /belongs to an instance that is running/);
    const other = spawnAgent(makeContainer(), '--pin-dir', '/sys/fs/bpf/other');
    assert.match(await sentence(other), /another instance is attached to /);
  });

  describe('without one of its rights', () => {
    for (const capability of CAPABILITIES.filter((name) => name !== 'CAP_SYS_PTRACE')) {
      it(`${capability}: says so, and the kernel would refuse the datapath`, async () => {
        const capabilities = CAPABILITIES.filter((name) => name !== capability);
        const refused = spawnAgent(makeContainer({ capabilities }));
        assert.match(await sentence(refused), new RegExp(`^slipstream-bpf: up needs ${capability}, `));
        assert.equal(existsSync(sandbox.pinDir), false);
        const child = sandbox.spawn('node', ['--input-type=module', '-e', LOAD, inside(sandbox.cgroup)], {
          cgroup: null,
          container: makeContainer({ capabilities }),
        });
        assert.equal(await child.exited(), 1);
        assert.match(child.stderr, /NativeError: .*(EPERM|EACCES)/);
      });
    }

    it('with all of them the kernel takes the datapath', async () => {
      const child = sandbox.spawn('node', ['--input-type=module', '-e', LOAD, inside(sandbox.cgroup)], {
        cgroup: null,
        container: makeContainer(),
      });
      assert.equal(await child.exited(), 0, child.stderr);
    });

    for (const [what, differences, reason] of [
      [
        'CAP_SYS_PTRACE',
        { capabilities: CAPABILITIES.filter((name) => name !== 'CAP_SYS_PTRACE') },
        'CAP_SYS_PTRACE is missing',
      ],
      ["the host's process ids", { hostPid: false }, "this is not the host's PID namespace"],
    ] as const) {
      it(`${what}: accelerates, and says who can't be woken`, async () => {
        const container = makeContainer({ ...differences });
        const child = await startAgent(container);
        assert.match(child.stderr, new RegExp(reason));
        const connection = await Connection.open(sandbox);
        const { code, stdout } = await exec(container, 'doctor');
        if ('hostPid' in differences && !promotesBy('promote')) {
          // Promotion goes by the open files of processes then.
          for (
            const deadline = Date.now() + 20_000;
            (await metric('slipstream_refusals_total{reason="gone"}')) === 0;
          ) {
            assert.ok(Date.now() < deadline, 'nothing is refused');
            await connection.pingPong(64, 500);
          }
          assert.equal(await redirected(), 0);
          assert.match(stdout, new RegExp(`^warn +promotion +.*${reason}$`, 'm'));
        } else await accelerate(connection);
        assert.equal(code, 0, stdout);
        assert.match(stdout, new RegExp(`^warn +waking +.*${reason}$`, 'm'));
      });
    }

    it('the BPF file system: says where to mount it', async () => {
      const child = spawnAgent(makeContainer({ without: ['bpffs'] }));
      assert.match(
        await sentence(child),
        /the BPF file system is not mounted .* "mount -t bpf bpf \/sys\/fs\/bpf" on the host$/,
      );
    });

    // Where cgroup v2 is the only one, a container has its own part of it; elsewhere nothing.
    for (const [what, part] of [
      ['all of it', false],
      ['all but a part', true],
    ] as const) {
      it(`the host's cgroups, ${what}: says what to mount`, async () => {
        const container = part
          ? makeContainer({ hostPaths: { [HOST_CGROUPS]: sandbox.cgroup } })
          : makeContainer({ without: ['cgroup'] });
        const child = sandbox.spawn('slipstream-bpf', agent.args, { cgroup: null, container });
        assert.match(
          await sentence(child),
          /cgroup.* mounted.* mount the host's \/sys\/fs\/cgroup into the container, /,
        );
      });
    }
  });
});
