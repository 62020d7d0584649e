/** Ports of conntrack helpers as modules were given them. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { builtInHelperPorts } from '../../controller/policy/helper-ports.js';
import { readHelperPorts } from '../../controller/probe/helper-ports.js';

describe('helper ports', () => {
  let modules: string;

  beforeEach(() => {
    modules = mkdtempSync(join(tmpdir(), 'slipstream-modules-'));
  });

  afterEach(() => {
    rmSync(modules, { recursive: true });
  });

  function load(module: string, ports: string): void {
    mkdirSync(join(modules, module, 'parameters'), { recursive: true });
    writeFileSync(join(modules, module, 'parameters', 'ports'), ports);
  }

  it('without modules, or a directory of them, those that are built in', () => {
    assert.deepEqual(readHelperPorts(modules), builtInHelperPorts);
    assert.deepEqual(readHelperPorts(join(modules, 'none')), builtInHelperPorts);
  });

  it('those of each module', () => {
    load('nf_conntrack_ftp', '21,2121,0,0\n');
    load('nf_conntrack_sip', '5062\n');
    load('ip_vs_ftp', '8021\n');
    assert.deepEqual(readHelperPorts(modules), new Set([...builtInHelperPorts, 2121, 5062, 8021]));
  });

  it('what is no port is passed over, and so are helpers of UDP', () => {
    load('nf_conntrack_irc', '(null)\n');
    load('nf_conntrack_sane', ',70000,-1\n');
    load('nf_conntrack_tftp', '69\n');
    assert.deepEqual(readHelperPorts(modules), builtInHelperPorts);
  });
});
