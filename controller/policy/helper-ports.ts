/** Ports on which a conntrack helper may read, or rewrite, what a connection says. */
import { type CompiledPolicy, decide, type End } from './evaluate.js';

/**
 * TCP ports that the kernel's helpers are made for (net/netfilter/nf_conntrack_*.c). A helper
 * translates addresses in the payload (FTP's PORT) and lets connections through a firewall that
 * the payload announces (RELATED). It sees nothing of what is redirected.
 */
export const builtInHelperPorts: ReadonlySet<number> = new Set([
  21, // ftp
  1720, // Q.931 of H.323
  1723, // pptp
  5060, // sip
  6566, // sane
  6667, // irc
]);

/**
 * A helper's port at this end that the rule which decides about the end does not name by itself, in no
 * range; undefined: none. Who names it knows that something else runs there, or that no helper is in use.
 */
export function unnamedHelperPort(
  compiled: CompiledPolicy,
  end: End,
  helperPorts: ReadonlySet<number>,
): number | undefined {
  const ports = end.ports.filter((port) => helperPorts.has(port));
  if (ports.length === 0) return undefined;
  const { rule } = decide(compiled, end);
  const named = compiled.rules.find(({ decision }) => decision.rule === rule)?.ports ?? [];
  return ports.find((port) => !named.some(([from, to]) => from === port && to === port));
}
