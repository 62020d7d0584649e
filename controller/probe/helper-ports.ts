/** Which TCP ports the conntrack helpers of this host are made for. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { builtInHelperPorts } from '../policy/helper-ports.js';

/** Modules that can be given ports of their own by a parameter; those of UDP are not among them. */
const MODULES = ['nf_conntrack_ftp', 'nf_conntrack_irc', 'nf_conntrack_sane', 'nf_conntrack_sip', 'ip_vs_ftp'];

/**
 * The built-in ports, and those that loaded modules were given.
 * @param modules the kernel's directory of modules
 */
export function readHelperPorts(modules = '/sys/module'): ReadonlySet<number> {
  return new Set([...builtInHelperPorts, ...MODULES.flatMap((name) => portsOf(join(modules, name)))]);
}

function portsOf(module: string): number[] {
  try {
    // The kernel shows arrays with commas between, and 0 for what was left empty.
    const text = readFileSync(join(module, 'parameters', 'ports'), 'utf8');
    return text
      .split(',')
      .map(Number)
      .filter((port) => port > 0 && port <= 65535);
  } catch {
    return []; // not loaded, or a kernel whose helpers have no such parameter
  }
}
