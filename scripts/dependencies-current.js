// Exit code 0 if node_modules holds what package-lock.json names, 1 if `npm ci` has something to do.
import { readFileSync } from 'node:fs';

const read = (file) => JSON.parse(readFileSync(new URL(`../${file}`, import.meta.url), 'utf8'));
const fits = (allowed, here) => allowed === undefined || allowed.includes(here);

let wanted, present;
try {
  wanted = read('package-lock.json').packages;
  present = read('node_modules/.package-lock.json').packages;
} catch {
  process.exit(1);
}

const declared = read('package.json');
const same = (kind) => JSON.stringify(declared[kind] ?? {}) === JSON.stringify(wanted[''][kind] ?? {});
const complete = Object.entries(wanted).every(([path, { version, integrity, optional, os, cpu, libc }]) => {
  if (path === '') return true;
  const found = present[path];
  if (found === undefined) {
    return optional === true && !(fits(os, process.platform) && fits(cpu, process.arch) && fits(libc, 'glibc'));
  }
  return found.version === version && found.integrity === integrity;
});
const nothingElse = Object.keys(present).every((path) => path in wanted);
process.exit(same('dependencies') && same('devDependencies') && complete && nothingElse ? 0 : 1);
