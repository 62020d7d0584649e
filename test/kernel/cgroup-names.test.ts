/** Cgroups whose names are no UTF-8: the kernel allows any bytes but '/' and the line feed. */
import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync, statSync } from 'node:fs';

import { cgroupId, cgroupPath, listCgroupsSync } from '../../addon/index.js';
import { CgroupNames } from '../../controller/datapath/cgroups.js';
import { CgroupSearch } from '../../controller/datapath/cgroup-search.js';
import { cgroupRoot } from '../../controller/probe/host.js';
import { needsRoot, Sandbox } from './support/sandbox.js';

describe('a cgroup whose name is not UTF-8', function () {
  let sandbox: Sandbox;
  let dir: Buffer;
  let id: bigint;

  before(function () {
    needsRoot(this);
  });
  beforeEach(() => {
    sandbox = new Sandbox('bytes');
    dir = Buffer.concat([Buffer.from(`${sandbox.cgroup}/c`), Buffer.from([0xff])]);
    mkdirSync(dir);
    id = statSync(dir, { bigint: true }).ino;
  });
  afterEach(async () => {
    rmdirSync(dir);
    await sandbox.dispose();
  });

  it('exists, by its handle', () => {
    const names = new CgroupNames(cgroupRoot());
    assert.equal(names.path(id), `${sandbox.cgroupPath}/c\\377`);
    assert.ok(names.exists(id));
    assert.ok(names.exists(id));
  });

  it('has a path that names it and no other', () => {
    const root = cgroupRoot();
    const made: Buffer[] = [];
    try {
      for (const name of [
        ...['\\377', '\\x2d', '\\', '\\134', '\\400', '\u00e9\u{1f600}'].map((text) => Buffer.from(text)),
        ...[[0xff], [0x5c, 0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xe2, 0x82], [0xf4, 0x90, 0x80, 0x80]].map(
          (bytes) => Buffer.from(bytes),
        ),
      ]) {
        const path = Buffer.concat([Buffer.from(`${sandbox.cgroup}/`), name]);
        mkdirSync(path);
        made.push(path);
      }
      const { ids, paths } = listCgroupsSync(sandbox.cgroup);
      assert.equal(new Set(paths).size, paths.length);
      ids.forEach((each, index) => {
        const path = paths[index] ?? '';
        assert.equal(cgroupId(`${sandbox.cgroup}${path}`), each, path);
        if (path !== '/') assert.equal(cgroupPath(each, root), `${sandbox.cgroupPath}${path}`);
      });
      assert.ok(
        ['/\\x2d', '/\\', '/\\400', '/\\134377', '/\\377', '/\\\\377'].every((path) => paths.includes(path)),
        paths.join(' '),
      );
    } finally {
      for (const path of made) rmdirSync(path);
    }
  });

  it('is told from another one', () => {
    const search = new CgroupSearch({ now: () => listCgroupsSync(cgroupRoot()) });
    const other = Buffer.concat([dir.subarray(0, -1), Buffer.from([0xfe])]);
    mkdirSync(other);
    const paths = [search.path(id), search.path(statSync(other, { bigint: true }).ino, true)];
    rmdirSync(other);
    assert.notEqual(paths[0], paths[1]);
  });
});
