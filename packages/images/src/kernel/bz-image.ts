import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { isElf, parseElf } from '../elf/elf.ts';

/** Xen's note with the entry point for PVH (include/xen/interface/elfnote.h). */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

export interface ExtractedKernel {
  /** The uncompressed ELF kernel, `vmlinux`. */
  readonly vmlinux: Buffer;
  /** Whether it has the note with the PVH entry, for direct boot in protected mode. */
  readonly pvhEntry: boolean;
}

/**
 * Extracts the ELF kernel from a bzImage: Firecracker boots only the former, distributions ship
 * only the latter. Supports payloads packed with zstd, gzip and lz4. Source:
 * Documentation/arch/x86/boot.rst, fields `setup_sects`, `payload_offset` and `payload_length`
 * (protocol 2.08). Throws an Error that says what is wrong with the file.
 */
export function extractVmlinux(bzImage: Buffer): ExtractedKernel {
  const vmlinux = decompress(readPayload(bzImage));
  if (!isElf(vmlinux)) throw new Error('the payload of the kernel image is not an ELF file');
  const pvhEntry = parseElf(vmlinux).notes.some(
    (note) => note.name === 'Xen' && note.type === XEN_ELFNOTE_PHYS32_ENTRY,
  );
  return { vmlinux, pvhEntry };
}

interface Payload {
  readonly packed: Buffer;
  /** The build appends it to the payload (scripts/Makefile.lib, `size_append`). */
  readonly unpackedSize: number;
}

function readPayload(bzImage: Buffer): Payload {
  if (bzImage.length < 0x268 || bzImage.toString('latin1', 0x202, 0x206) !== 'HdrS') {
    throw new Error('not a Linux bzImage');
  }
  const version = bzImage.readUInt16LE(0x206);
  if (version < 0x208) {
    throw new Error(`boot protocol 0x${version.toString(16)} is too old: 2.08 or newer is needed`);
  }
  const setupSectors = bzImage.readUInt8(0x1f1) || 4;
  const start = (setupSectors + 1) * 512 + bzImage.readUInt32LE(0x248);
  const payload = bzImage.subarray(start, start + bzImage.readUInt32LE(0x24c));
  if (payload.length < 8) throw new Error('the kernel image is truncated');
  return {
    packed: payload.subarray(0, -4),
    unpackedSize: payload.readUInt32LE(payload.length - 4),
  };
}

function decompress({ packed, unpackedSize }: Payload): Buffer {
  const limit = { maxOutputLength: unpackedSize };
  const magic = packed.readUInt32BE(0);
  if (magic === 0x28b52ffd) return zstdDecompressSync(packed, limit);
  // gzip's own trailer has the size at its end, so nothing is appended to it.
  if (magic >>> 16 === 0x1f8b) {
    const size = Buffer.alloc(4);
    size.writeUInt32LE(unpackedSize);
    return gunzipSync(Buffer.concat([packed, size]), limit);
  }
  if (magic === 0x02214c18) return decompressLz4Legacy(packed.subarray(4), unpackedSize);
  throw new Error(`the compression of the kernel is unknown (magic ${magic.toString(16)})`);
}

/** LZ4's legacy frame: blocks of up to 8 MiB, each preceded by its packed size (doc/lz4_Frame_format.md). */
function decompressLz4Legacy(packed: Buffer, unpackedSize: number): Buffer {
  const output = Buffer.alloc(unpackedSize);
  let written = 0;
  for (let at = 0; at + 4 <= packed.length; ) {
    const size = packed.readUInt32LE(at);
    written = decompressLz4Block(packed.subarray(at + 4, at + 4 + size), output, written);
    at += 4 + size;
  }
  if (written !== unpackedSize) throw new Error('the lz4 payload of the kernel is truncated');
  return output;
}

/** Unpacks one block (doc/lz4_Block_format.md) to `output` from `start` on; returns the end of the output. */
function decompressLz4Block(block: Buffer, output: Buffer, start: number): number {
  let from = 0;
  let to = start;
  const readLength = (nibble: number): number => {
    let length = nibble;
    if (nibble !== 15) return length;
    for (let byte = 255; byte === 255; length += byte) byte = block.readUInt8(from++);
    return length;
  };
  while (from < block.length) {
    const token = block.readUInt8(from++);
    const literals = readLength(token >> 4);
    if (from + literals > block.length || to + literals > output.length) {
      throw new Error('the lz4 payload of the kernel is damaged');
    }
    block.copy(output, to, from, from + literals);
    from += literals;
    to += literals;
    // The last sequence of a block has literals only.
    if (from === block.length) break;
    const distance = block.readUInt16LE(from);
    from += 2;
    const length = readLength(token & 15) + 4;
    if (distance === 0 || to - distance < start || to + length > output.length) {
      throw new Error('the lz4 payload of the kernel is damaged');
    }
    // A match may overlap what it writes, so it is copied in steps of its distance.
    for (let copied = 0; copied < length; ) {
      const step = Math.min(distance, length - copied);
      output.copyWithin(to + copied, to + copied - distance, to + copied - distance + step);
      copied += step;
    }
    to += length;
  }
  return to;
}
