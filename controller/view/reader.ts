/** Reading a datapath beside its controller, which need not run. */
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath } from '../datapath/datapath.js';
import { UserError } from '../errors.js';
import { cgroupRoot, isBpffsDirectory, requireRoot } from '../probe/host.js';

export interface Reading {
  datapath: Datapath;
  cgroups: CgroupNames;
}

/** @throws UserError if nothing is pinned there. */
export function withDatapath<T>(pinDir: string, objectFile: string, read: (reading: Reading) => T): T {
  requireRoot('reading the datapath');
  if (!isBpffsDirectory(pinDir) || Datapath.pinState(pinDir) !== 'complete') {
    throw new UserError(
      `no datapath is loaded in ${pinDir}: start one with "slipstream-bpf up", or give its --pin-dir`,
    );
  }
  const datapath = Datapath.adopt(objectFile, pinDir);
  try {
    return read({ datapath, cgroups: new CgroupNames(cgroupRoot()) });
  } finally {
    datapath.close();
  }
}
