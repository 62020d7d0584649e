/** Reading a datapath beside its controller, which need not run. */
import { CgroupNames } from '../datapath/cgroups.js';
import { Datapath, requireAbi } from '../datapath/datapath.js';
import { UserError } from '../errors.js';
import { cgroupRoot, isBpffsDirectory, requireRoot } from '../probe/host.js';

export interface Reading {
  datapath: Datapath;
  cgroups: CgroupNames;
}

/** The datapath is the caller's to close. @throws UserError if nothing that this version reads is pinned there. */
export function openDatapath(pinDir: string, objectFile: string): Reading {
  requireRoot('reading the datapath');
  if (isBpffsDirectory(pinDir)) requireAbi(pinDir);
  if (!isBpffsDirectory(pinDir) || Datapath.pinState(pinDir) !== 'complete') {
    throw new UserError(
      `no datapath is loaded in ${pinDir}: start one with "slipstream-bpf up", or give its --pin-dir`,
    );
  }
  return { datapath: Datapath.adopt(objectFile, pinDir), cgroups: new CgroupNames(cgroupRoot()) };
}

/** @throws UserError if nothing is pinned there. */
export function withDatapath<T>(pinDir: string, objectFile: string, read: (reading: Reading) => T): T {
  const reading = openDatapath(pinDir, objectFile);
  try {
    return read(reading);
  } finally {
    reading.datapath.close();
  }
}
