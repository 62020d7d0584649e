/** One section of an ELF file (64 bits, little-endian) taken out, and put back changed: elf(5). */
interface Section {
  /** Of its header in the file. */
  header: number;
  bytes: Buffer;
}

function section(file: Buffer, name: string): Section {
  const table = Number(file.readBigUInt64LE(0x28));
  const [size, count, names] = [0x3a, 0x3c, 0x3e].map((at) => file.readUInt16LE(at)) as [number, number, number];
  const contents = (header: number): Buffer => {
    const [from, length] = [0x18, 0x20].map((at) => Number(file.readBigUInt64LE(header + at))) as [number, number];
    return file.subarray(from, from + length);
  };
  const strings = contents(table + names * size);
  for (let header = table; header < table + count * size; header += size) {
    const start = file.readUInt32LE(header);
    if (strings.toString('latin1', start, strings.indexOf(0, start)) === name)
      return { header, bytes: contents(header) };
  }
  throw new Error(`no section ${name}`);
}

export function readSection(file: Buffer, name: string): Buffer {
  return section(file, name).bytes;
}

export function replaceSection(file: Buffer, name: string, bytes: Buffer): Buffer {
  const padding = Buffer.alloc((8 - (file.length % 8)) % 8);
  const changed = Buffer.concat([file, padding, bytes]);
  const { header } = section(file, name);
  changed.writeBigUInt64LE(BigInt(file.length + padding.length), header + 0x18);
  changed.writeBigUInt64LE(BigInt(bytes.length), header + 0x20);
  return changed;
}
