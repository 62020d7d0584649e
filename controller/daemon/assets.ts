/** The dashboard's files, read once: the pages of controller/dashboard and uPlot from its package. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { REASONS } from '../metrics/reasons.js';

export interface Asset {
  readonly body: Buffer;
  readonly contentType: string;
}

const TYPES = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
} as const;

/** By path; nothing else is served, whatever lies beside them. */
const FILES: Readonly<Record<string, { file: string; type: keyof typeof TYPES }>> = {
  '/': { file: 'index.html', type: 'html' },
  '/style.css': { file: 'style.css', type: 'css' },
  '/app.js': { file: 'app.js', type: 'js' },
  '/charts.js': { file: 'charts.js', type: 'js' },
  '/format.js': { file: 'format.js', type: 'js' },
  '/poll.js': { file: 'poll.js', type: 'js' },
  '/theme.js': { file: 'theme.js', type: 'js' },
  '/icon.svg': { file: 'icon.svg', type: 'svg' },
};

const LIBRARIES: typeof FILES = {
  '/uplot.js': { file: 'uplot/dist/uPlot.esm.js', type: 'js' },
  '/uplot.css': { file: 'uplot/dist/uPlot.min.css', type: 'css' },
};

export function readAssets(): Map<string, Asset> {
  const own = join(dirname(fileURLToPath(import.meta.url)), '..', 'dashboard');
  const { resolve } = createRequire(import.meta.url);
  const read = (files: typeof FILES, find: (file: string) => string): [string, Asset][] =>
    Object.entries(files).map(([path, { file, type }]) => [
      path,
      { body: readFileSync(find(file)), contentType: TYPES[type] },
    ]);
  const reasons = Buffer.from(`export const REASONS = ${JSON.stringify(REASONS)};\n`);
  return new Map([
    ['/reasons.js', { body: reasons, contentType: TYPES.js }],
    ...read(FILES, (file) => join(own, file)),
    ...read(LIBRARIES, (file) => resolve(file)),
  ]);
}
