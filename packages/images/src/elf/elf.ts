/**
 * The parts of an ELF reader that the images need: a program's libraries and loader, the
 * `.modinfo` of a kernel module, and whether a kernel has a PVH entry. 64-bit little-endian
 * files only, which is what x86-64 has. Source: the System V ABI, "ELF-64 Object File Format"
 * 1.5.
 */

export interface ElfFile {
  /** Path of the dynamic loader (PT_INTERP); undefined for a static program or a library. */
  readonly interpreter: string | undefined;
  /** Sonames of the libraries that must be loaded with it (DT_NEEDED). */
  readonly needed: readonly string[];
  readonly notes: readonly ElfNote[];
  /** The bytes of a section, or undefined if there is none of this name. */
  section(name: string): Buffer | undefined;
}

export interface ElfNote {
  readonly name: string;
  readonly type: number;
}

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const PT_NOTE = 4;
const DT_NULL = 0;
const DT_NEEDED = 1;
const DT_STRTAB = 5;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly fileSize: number;
}

/** Reads the headers of an ELF file that is in memory. Throws a RangeError or Error for anything else. */
export function parseElf(file: Buffer): ElfFile {
  if (!isElf(file)) throw new Error('not a 64-bit little-endian ELF file');
  const segments = readSegments(file);
  const interpreter = segments.find((segment) => segment.type === PT_INTERP);
  return {
    interpreter: interpreter && cString(slice(file, interpreter), 0),
    needed: readNeeded(file, segments),
    notes: segments
      .filter((segment) => segment.type === PT_NOTE)
      .flatMap((segment) => readNotes(slice(file, segment))),
    section: (name) => readSection(file, name),
  };
}

export function isElf(file: Buffer): boolean {
  return file.length >= 64 && file.readUInt32BE(0) === 0x7f454c46 && file[4] === 2 && file[5] === 1;
}

function readSegments(file: Buffer): Segment[] {
  const start = Number(file.readBigUInt64LE(32));
  const entrySize = file.readUInt16LE(54);
  return Array.from({ length: file.readUInt16LE(56) }, (_, index) => {
    const at = start + index * entrySize;
    return {
      type: file.readUInt32LE(at),
      offset: Number(file.readBigUInt64LE(at + 8)),
      address: Number(file.readBigUInt64LE(at + 16)),
      fileSize: Number(file.readBigUInt64LE(at + 32)),
    };
  });
}

function slice(file: Buffer, segment: Segment): Buffer {
  return file.subarray(segment.offset, segment.offset + segment.fileSize);
}

function readNeeded(file: Buffer, segments: readonly Segment[]): string[] {
  const dynamic = segments.find((segment) => segment.type === PT_DYNAMIC);
  if (dynamic === undefined) return [];
  const bytes = slice(file, dynamic);
  const names: number[] = [];
  let strings = 0;
  for (let at = 0; at + 16 <= bytes.length; at += 16) {
    const tag = Number(bytes.readBigInt64LE(at));
    const value = Number(bytes.readBigUInt64LE(at + 8));
    if (tag === DT_NULL) break;
    if (tag === DT_NEEDED) names.push(value);
    if (tag === DT_STRTAB) strings = fileOffset(segments, value);
  }
  return names.map((name) => cString(file, strings + name));
}

function fileOffset(segments: readonly Segment[], address: number): number {
  const segment = segments.find(
    ({ type, address: start, fileSize }) =>
      type === PT_LOAD && address >= start && address < start + fileSize,
  );
  if (segment === undefined) throw new Error('the ELF file has no string table');
  return address - segment.address + segment.offset;
}

function readNotes(bytes: Buffer): ElfNote[] {
  const notes: ElfNote[] = [];
  for (let at = 0; at + 12 <= bytes.length; ) {
    const nameSize = bytes.readUInt32LE(at);
    const descriptorSize = bytes.readUInt32LE(at + 4);
    notes.push({ name: cString(bytes, at + 12), type: bytes.readUInt32LE(at + 8) });
    at += 12 + align4(nameSize) + align4(descriptorSize);
  }
  return notes;
}

function readSection(file: Buffer, wanted: string): Buffer | undefined {
  const start = Number(file.readBigUInt64LE(40));
  const entrySize = file.readUInt16LE(58);
  const count = file.readUInt16LE(60);
  const header = (index: number) => {
    const at = start + index * entrySize;
    return {
      name: file.readUInt32LE(at),
      offset: Number(file.readBigUInt64LE(at + 24)),
      size: Number(file.readBigUInt64LE(at + 32)),
    };
  };
  if (start === 0 || count === 0) return undefined;
  const names = header(file.readUInt16LE(62));
  for (let index = 0; index < count; index++) {
    const section = header(index);
    if (cString(file, names.offset + section.name) === wanted) {
      return file.subarray(section.offset, section.offset + section.size);
    }
  }
  return undefined;
}

function cString(bytes: Buffer, at: number): string {
  const end = bytes.indexOf(0, at);
  if (end < 0) throw new Error('a string of the ELF file is not terminated');
  return bytes.toString('latin1', at, end);
}

function align4(size: number): number {
  return (size + 3) & ~3;
}
