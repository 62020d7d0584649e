// Run by npm after it has unpacked the package: builds what is not in it ready-made for this system.
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const PACKAGES = 'bash clang llvm g++ make pkg-config python3 libbpf-dev libelf-dev zlib1g-dev';

/** Whether the package was made on a system like this one. */
function isReadyMade() {
  try {
    require('node-gyp-build').resolve(join(root, 'addon'));
    return ['bpf/slipstream.bpf.o', 'probe/slipstream-gate', 'probe/slipstream-borrow'].every((file) =>
      existsSync(join(root, 'build', file)),
    );
  } catch {
    return false;
  }
}

function isOnPath(program) {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function fail(sentence) {
  process.stderr.write(`slipstream-bpf: ${sentence}\n`);
  process.exitCode = 1;
}

// A checkout has its own scripts/build; npm never packs this file.
if (!existsSync(join(root, 'package-lock.json')) && !isReadyMade()) {
  const missing = ['bash', 'cc', 'g++', 'make', 'pkg-config', 'python3'].filter((program) => !isOnPath(program));
  const here = `${process.platform}-${process.arch}`;
  if (missing.length > 0) {
    fail(
      `this package has nothing ready-made for ${here} with this C library, and ${missing.join(', ')} to build it with ` +
        `can't be found: install ${PACKAGES} (as Debian and Ubuntu call them), then try again.`,
    );
  } else {
    const { status } = spawnSync(join(root, 'scripts/build'), ['bpf', 'addon', 'probe'], {
      stdio: 'inherit',
      cwd: root,
    });
    if (status !== 0) {
      fail(`building for ${here} failed, see above: it needs ${PACKAGES} (as Debian and Ubuntu call them).`);
    }
  }
}
