/** deploy/: the manifests against Kubernetes' schemas, the Dockerfile by a linter, and both against the program. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { DockerfileParser } from 'dockerfile-ast';
import { validate } from 'dockerfile-utils';
import ts from 'typescript';
import { parse, parseAllDocuments } from 'yaml';

import { DEFAULT_PIN_DIR } from '../../controller/probe/paths.js';
import { parsePolicy } from '../../controller/policy/parse.js';
import { agent, CAPABILITIES, daemonSet, manifest, podSpec } from '../kernel/support/daemonset.js';
import { ROOT, skip } from '../kernel/support/sandbox.js';

const require = createRequire(import.meta.url);
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
const read = (...path: string[]): string => readFileSync(join(ROOT, ...path), 'utf8');

/** Where each kind's schema is. */
const KINDS: Record<string, string> = {
  Namespace: 'kubernetes-models/v1',
  ConfigMap: 'kubernetes-models/v1',
  DaemonSet: 'kubernetes-models/apps/v1',
  PodMonitor: '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1',
};
const MANIFESTS = ['namespace.yaml', 'configmap.yaml', 'daemonset.yaml', 'podmonitor.yaml'];

interface Manifest {
  kind: string;
  metadata: { name: string; namespace?: string; labels: Record<string, string> };
}

/** Values and formats. Fields that no schema knows pass. */
function schemaErrors(of: Manifest): string[] {
  type Model = new (data: object) => { validate: () => void };
  const models = require(KINDS[of.kind] ?? '') as Record<string, Model>;
  const Kind = models[of.kind];
  assert.ok(Kind);
  try {
    new Kind(of).validate();
    return [];
  } catch (error) {
    return [String(error)];
  }
}

/** Fields that no schema knows, and types: the manifests as literals of the schemas' TypeScript types. */
function typeErrors(manifests: readonly Manifest[]): string[] {
  const file = join(ROOT, 'test', 'unit', 'manifests.ts');
  const source = manifests
    .map((of, n) => `const m${String(n)}: import('${KINDS[of.kind] ?? ''}').I${of.kind} = ${JSON.stringify(of)};\n`)
    .join('');
  const options: ts.CompilerOptions = {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    types: [],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const host = ts.createCompilerHost(options);
  const original = { ...host };
  host.fileExists = (name) => name === file || original.fileExists(name);
  host.getSourceFile = (name, version, ...others) =>
    name === file ? ts.createSourceFile(name, source, version) : original.getSourceFile(name, version, ...others);
  const program = ts.createProgram([file], options, host);
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '));
}

describe('deploy: Kubernetes', function () {
  this.timeout(60_000);
  const manifests = MANIFESTS.map((name) => manifest(name) as Manifest);

  it('keeps to the schemas', () => {
    for (const of of manifests) assert.deepEqual(schemaErrors(of), [], of.kind);
    assert.deepEqual(typeErrors(manifests), []);
  });

  it('would not if a value or a name were wrong', () => {
    const wrong = structuredClone(daemonSet);
    Object.assign(wrong.spec, { minReadySeconds: 'soon' });
    assert.match(schemaErrors(wrong as unknown as Manifest).join(), /minReadySeconds must be integer/);
    const misspelled = structuredClone(daemonSet);
    Object.assign(misspelled.spec.template.spec.containers[0].securityContext, { readOnlyRootFileSystem: true });
    assert.match(typeErrors([misspelled as unknown as Manifest]).join(), /readOnlyRootFileSystem/);
  });

  it('belongs together', () => {
    const kustomization = manifest('kustomization.yaml') as { resources: string[]; images: object[] };
    assert.deepEqual([...kustomization.resources, 'podmonitor.yaml'], MANIFESTS);
    assert.deepEqual(kustomization.images, [{ name: 'slipstream-bpf', newName: 'slipstream-bpf', newTag: version }]);
    assert.equal(agent.image, `slipstream-bpf:${version}`);
    const spaces = manifests.map(({ metadata }) => metadata.namespace ?? metadata.name);
    assert.deepEqual([...new Set(spaces)], ['slipstream-bpf']);
    const [, configMap, , podMonitor] = manifests as [Manifest, Manifest, Manifest, Manifest];
    assert.deepEqual(
      podSpec.volumes.flatMap((volume) => volume.configMap?.name ?? []),
      [configMap.metadata.name],
    );
    const { selector, template } = daemonSet.spec as unknown as Record<
      'selector' | 'template',
      { matchLabels: object; metadata: { labels: Record<string, string> } }
    >;
    assert.deepEqual(selector.matchLabels, template.metadata.labels);
    const { spec } = podMonitor as unknown as {
      spec: {
        selector: { matchLabels: Record<string, string> };
        podTargetLabels: string[];
        podMetricsEndpoints: { port: string; path: string }[];
      };
    };
    for (const [key, value] of Object.entries(spec.selector.matchLabels)) {
      assert.equal(template.metadata.labels[key], value);
    }
    for (const label of spec.podTargetLabels) assert.ok(label in template.metadata.labels);
    const port = agent.ports[0]?.containerPort;
    assert.deepEqual(
      spec.podMetricsEndpoints.map(({ port, path }) => [port, path]),
      [['metrics', '/metrics']],
    );
    const { annotations } = template.metadata as unknown as { annotations: Record<string, string> };
    assert.equal(annotations['prometheus.io/port'], String(port));
  });

  it('the canary changes what is there', () => {
    const canary = parse(read('deploy', 'kubernetes-canary', 'kustomization.yaml')) as {
      images?: object;
      patches: { target: { kind: string; name: string }; patch: string }[];
    };
    assert.equal(canary.images, undefined, 'they would not match what the base has renamed');
    for (const { target, patch } of canary.patches) {
      const of = manifests.find(({ kind, metadata }) => kind === target.kind && metadata.name === target.name);
      for (const { op, path, value } of parse(patch) as { op: string; path: string; value: unknown }[]) {
        assert.equal(op, 'replace');
        if (path.endsWith('/image')) assert.equal(value, agent.image);
        let at: unknown = of;
        for (const key of path.slice(1).split('/')) {
          at = (at as Record<string, unknown> | undefined)?.[key.replace('~1', '/')];
        }
        assert.notEqual(at, undefined, path);
      }
      if (target.kind !== 'ConfigMap') continue;
      const [{ value }] = parse(patch) as [{ value: string }];
      assert.equal(parsePolicy(value, 'canary').ok, true);
    }
  });

  describe('as kustomize makes it', () => {
    const [program = '', ...words] =
      [
        ['kustomize', 'build'],
        ['kubectl', 'kustomize'],
      ].find(([name = '']) => spawnSync(name, ['version', '--client']).error === undefined) ?? [];
    let folder: string;

    before(function () {
      if (program === '') skip(this, 'there is neither kustomize nor kubectl');
    });

    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'slipstream-kustomize-'));
      for (const name of ['kubernetes', 'kubernetes-canary'])
        cpSync(join(ROOT, 'deploy', name), join(folder, name), { recursive: true });
    });

    afterEach(() => {
      rmSync(folder, { recursive: true });
    });

    function build(name: string): Map<string, Manifest & typeof daemonSet> {
      const text = execFileSync(program, [...words, join(folder, name)], { encoding: 'utf8' });
      const all = parseAllDocuments(text).map((document) => document.toJS() as Manifest & typeof daemonSet);
      return new Map(all.map((of) => [of.kind, of]));
    }
    const image = (name: string): unknown => build(name).get('DaemonSet')?.spec.template.spec.containers[0].image;

    /** The edit that docs/operations.md tells of. */
    function edit(name: string, from: string, to: string): void {
      const file = join(folder, name, 'kustomization.yaml');
      const text = readFileSync(file, 'utf8');
      assert.equal(text.split(from).length, 2, `${from} is not there once`);
      assert.ok(read('docs', 'operations.md').includes(`\`${from.split(' ')[0] ?? ''}\``), from);
      writeFileSync(file, text.replace(from, to));
    }

    it('runs one image', () => {
      assert.equal(image('kubernetes'), `slipstream-bpf:${version}`);
      assert.equal(image('kubernetes-canary'), `slipstream-bpf:${version}`);
    });

    it('runs the image on each that was written for it', () => {
      edit('kubernetes', 'newName: slipstream-bpf', 'newName: registry.example.com:5000/slipstream-bpf');
      edit(
        'kubernetes-canary',
        `value: slipstream-bpf:${version}`,
        'value: registry.example.com:5000/slipstream-bpf:2.0.0',
      );
      assert.equal(image('kubernetes'), `registry.example.com:5000/slipstream-bpf:${version}`);
      assert.equal(image('kubernetes-canary'), 'registry.example.com:5000/slipstream-bpf:2.0.0');
      edit('kubernetes', `newTag: ${version}`, 'newTag: 2.0.0');
      assert.equal(image('kubernetes'), 'registry.example.com:5000/slipstream-bpf:2.0.0');
      assert.equal(image('kubernetes-canary'), 'registry.example.com:5000/slipstream-bpf:2.0.0');
    });

    it('keeps the canary apart', () => {
      const [stable, canary] = ['kubernetes', 'kubernetes-canary'].map(build) as [
        ReturnType<typeof build>,
        ReturnType<typeof build>,
      ];
      for (const kind of ['DaemonSet', 'ConfigMap']) {
        assert.deepEqual(
          [stable.get(kind)?.metadata.name, canary.get(kind)?.metadata.name],
          ['slipstream-bpf', 'slipstream-bpf-canary'],
        );
      }
      const volumes = canary.get('DaemonSet')?.spec.template.spec.volumes;
      assert.ok(volumes?.some(({ configMap }) => configMap?.name === 'slipstream-bpf-canary'));
      for (const of of canary.values()) assert.deepEqual(schemaErrors(of), [], of.kind);
    });
  });

  it('starts the program as it is', () => {
    const [command = '', ...flags] = agent.args;
    const help = execFileSync(join(ROOT, 'bin', 'slipstream-bpf'), [command, '--help'], { encoding: 'utf8' });
    for (const flag of flags) {
      assert.match(help, new RegExp(`^ +${/^--[a-z-]+/.exec(flag)?.[0] ?? flag} `, 'm'), flag);
    }
    const value = (name: string): string | undefined =>
      flags.find((flag) => flag.startsWith(`--${name}=`))?.slice(name.length + 3);
    const port = agent.ports[0]?.containerPort;
    assert.equal(value('metrics'), `:${String(port)}`);
    assert.match(help, new RegExp(`127\\.0\\.0\\.1:${String(port)}`), 'another port than the default');
    assert.ok(Number(value('timeout')) + 10 <= podSpec.terminationGracePeriodSeconds);
    const mounted = (path: string): boolean => agent.volumeMounts.some(({ mountPath }) => mountPath === path);
    const stateDir = /--state-dir .*?\[default: "([^"]+)"\]/s.exec(help)?.[1] ?? '';
    for (const path of [stateDir, DEFAULT_PIN_DIR.replace(/\/[^/]+$/, ''), '/etc/slipstream-bpf']) {
      assert.ok(mounted(path), `${path} is no volume`);
    }
    assert.match(value('policy') ?? '', /^\/etc\/slipstream-bpf\//);
  });

  it('has a policy that is valid and redirects nothing yet', () => {
    const { data } = manifest('configmap.yaml') as { data: Record<string, string> };
    const file = agent.args.map((flag) => /^--policy=.*\/(.*)$/.exec(flag)?.[1]).find(Boolean) ?? '';
    const result = parsePolicy(data[file] ?? '', file);
    assert.ok(result.ok);
    assert.equal(result.policy.defaults.action, 'observe');
  });

  it('asks for the capabilities that docs/operations.md lists, and no more', () => {
    assert.deepEqual(agent.securityContext.capabilities.drop, ['ALL']);
    const documented = [...read('docs', 'operations.md').matchAll(/^\| `(CAP_[A-Z_]+)`/gm)].map(([, name]) => name);
    assert.deepEqual(CAPABILITIES, documented);
    const docker = /docker run (?:.*\\\n)+.*/.exec(read('docs', 'operations.md'))?.[0] ?? '';
    assert.deepEqual(
      [...docker.matchAll(/--cap-add ([A-Z_]+)/g)].map(([, name]) => `CAP_${name ?? ''}`),
      CAPABILITIES,
    );
  });
});

describe('deploy: Dockerfile', () => {
  const text = read('deploy', 'Dockerfile');
  const dockerfile = DockerfileParser.parse(text);

  it('has nothing that the linter minds', () => {
    assert.deepEqual(
      validate(text).map(({ range, message }) => [range.start.line + 1, message]),
      [],
    );
  });

  it('copies what is there, and what .dockerignore lets through', () => {
    const kept = new Set(
      read('.dockerignore')
        .split('\n')
        .flatMap((line) => (line.startsWith('!') ? [line.slice(1)] : [])),
    );
    for (const name of kept) assert.ok(existsSync(join(ROOT, name)), name);
    for (const copy of dockerfile.getCOPYs().filter((of) => of.getFromFlag() === null)) {
      for (const argument of copy.getArguments().slice(0, -1)) {
        const path = argument.getValue();
        assert.ok(path === '.' || kept.has(path.split('/')[0] ?? ''), path);
        assert.ok(existsSync(join(ROOT, path)), path);
      }
    }
  });

  it('starts the program that the DaemonSet gives arguments to', () => {
    const [entrypoint] = dockerfile.getENTRYPOINTs();
    assert.deepEqual(
      entrypoint?.getArguments().map((argument) => argument.getValue()),
      ['["slipstream-bpf"]'],
    );
    assert.equal(dockerfile.getHEALTHCHECKs().length, 0);
    assert.match(text, new RegExp(`image\\.version="${version.replaceAll('.', '\\.')}"`));
  });
});
