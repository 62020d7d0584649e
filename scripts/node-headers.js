// Prints the folder that holds include/node of this very Node.js, or nothing: node-gyp then fetches the headers.
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';

const prefix = dirname(dirname(realpathSync(process.execPath)));
const version = join(prefix, 'include/node/node_version.h');
if (existsSync(version) && existsSync(join(prefix, 'include/node/common.gypi'))) {
  const major = /#define NODE_MAJOR_VERSION (\d+)/.exec(readFileSync(version, 'utf8'))?.[1];
  if (major === process.versions.node.split('.')[0]) console.log(prefix);
}
