import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { extractVmlinux } from './bz-image.ts';

/** An ELF file with one program header: the note with a kernel's PVH entry. */
function makeVmlinux(noteType: number): Buffer {
  const elf = Buffer.alloc(64 + 56 + 20);
  elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  elf.writeBigUInt64LE(64n, 32);
  elf.writeUInt16LE(56, 54);
  elf.writeUInt16LE(1, 56);
  elf.writeUInt32LE(4, 64);
  elf.writeBigUInt64LE(120n, 64 + 8);
  elf.writeBigUInt64LE(20n, 64 + 32);
  elf.writeUInt32LE(4, 120);
  elf.writeUInt32LE(4, 124);
  elf.writeUInt32LE(noteType, 128);
  elf.write('Xen\0', 132);
  return elf;
}

/** A bzImage around a payload, with the set-up code that the header announces. */
function makeBzImage(payload: Buffer): Buffer {
  const setupSectors = 2;
  const payloadOffset = 64;
  const header = Buffer.alloc((setupSectors + 1) * 512 + payloadOffset);
  header.writeUInt8(setupSectors, 0x1f1);
  header.write('HdrS', 0x202);
  header.writeUInt16LE(0x20f, 0x206);
  header.writeUInt32LE(payloadOffset, 0x248);
  header.writeUInt32LE(payload.length, 0x24c);
  return Buffer.concat([header, payload, Buffer.alloc(100)]);
}

function withSize(packed: Buffer, unpacked: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(unpacked.length);
  return Buffer.concat([packed, size]);
}

/** Literals `abcd`, a match of 8 at distance 4, literals up to the end: what `lz4 -l` would write. */
function lz4Legacy(block: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(block.length);
  return Buffer.concat([Buffer.from([0x02, 0x21, 0x4c, 0x18]), size, block]);
}

const KERNEL = makeVmlinux(18);

describe('extractVmlinux', () => {
  test('unpacks zstd and finds the PVH entry', () => {
    const { vmlinux, pvhEntry } = extractVmlinux(
      makeBzImage(withSize(zstdCompressSync(KERNEL), KERNEL)),
    );
    expect(vmlinux.equals(KERNEL)).toBe(true);
    expect(pvhEntry).toBe(true);
  });

  test('unpacks gzip, whose own trailer is the size', () => {
    expect(extractVmlinux(makeBzImage(gzipSync(KERNEL))).vmlinux.equals(KERNEL)).toBe(true);
  });

  test('a kernel without the note has no PVH entry', () => {
    const plain = makeVmlinux(1);
    expect(extractVmlinux(makeBzImage(withSize(zstdCompressSync(plain), plain))).pvhEntry).toBe(
      false,
    );
  });

  test('unpacks lz4: literals, long literals and matches that overlap themselves', () => {
    // The kernel as literals (length 15 + 125 = 140), then 64 zeros from one by a match at distance
    // 1.
    const zeros = Buffer.alloc(1 + 60 + 3);
    const whole = Buffer.concat([KERNEL, zeros]);
    const block = Buffer.concat([
      Buffer.from([0xff, KERNEL.length + 1 - 15]),
      KERNEL,
      Buffer.from([0]),
      Buffer.from([1, 0, 60 - 4 - 15]),
      Buffer.from([0x30, 0, 0, 0]),
    ]);
    const { vmlinux } = extractVmlinux(makeBzImage(withSize(lz4Legacy(block), whole)));
    expect(vmlinux.equals(whole)).toBe(true);
  });

  test('a match before the start of an lz4 block is refused', () => {
    const block = Buffer.from([0x14, 0x61, 9, 0, 0x10, 0x62]);
    const image = makeBzImage(withSize(lz4Legacy(block), Buffer.alloc(64)));
    expect(() => extractVmlinux(image)).toThrow('damaged');
  });

  test.each([
    ['something else', Buffer.alloc(4096), 'not a Linux bzImage'],
    ['an empty file', Buffer.alloc(0), 'not a Linux bzImage'],
    ['an unknown packing', makeBzImage(Buffer.alloc(64, 0x55)), 'unknown'],
    [
      'a payload that is not an ELF file',
      makeBzImage(withSize(zstdCompressSync(Buffer.alloc(100)), Buffer.alloc(100))),
      'not an ELF file',
    ],
    ['a truncated image', makeBzImage(KERNEL).subarray(0, 1600), 'truncated'],
  ])('%s is refused', (_what, image, message) => {
    expect(() => extractVmlinux(image)).toThrow(message);
  });
});
