import { z } from 'zod';

/** A part of guest RAM as the VMM has mapped it. Bytes. */
export interface Region {
  /** Address in the VMM's memory: what faults report. */
  readonly start: number;
  readonly size: number;
  /** The offset of the region in guest RAM, as in the header. */
  readonly offset: number;
}

const PAGE_BYTES = 4096;
const address = z
  .int()
  .min(0)
  .max(2 ** 47);

// Unknown fields are ignored: later versions of Firecracker add some.
const mappings = z
  .array(
    z.looseObject({
      base_host_virt_addr: address,
      size: address,
      offset: address,
      page_size: z.int().optional(),
      // Misnamed: it is in bytes.
      page_size_kib: z.int().optional(),
    }),
  )
  .min(1)
  .max(64);

/** A handshake that cannot be served; the message is a sentence. */
export class HandshakeError extends Error {
  override readonly name = 'HandshakeError';
}

/**
 * Reads the message that a VMM sends with its userfaultfd (Firecracker's
 * `GuestRegionUffdMapping`). Throws {@link HandshakeError} unless the regions are
 * whole pages of 4 KiB, disjoint, and cover guest RAM of `memoryBytes` exactly.
 */
export function parseHandshake(bytes: Uint8Array, memoryBytes: number): Region[] {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(bytes).toString());
  } catch {
    throw new HandshakeError('The handshake of the VMM is not JSON.');
  }
  const parsed = mappings.safeParse(json);
  if (!parsed.success)
    throw new HandshakeError('The handshake of the VMM is not a list of memory regions.');
  const regions = parsed.data.map((mapping) => {
    const pageSize = mapping.page_size ?? mapping.page_size_kib ?? PAGE_BYTES;
    if (pageSize !== PAGE_BYTES) {
      throw new HandshakeError(`Pages of ${pageSize} bytes are not supported; use pages of 4 KiB.`);
    }
    return { start: mapping.base_host_virt_addr, size: mapping.size, offset: mapping.offset };
  });
  checkRegions(regions, memoryBytes);
  return regions;
}

function checkRegions(regions: readonly Region[], memoryBytes: number): void {
  const byOffset = regions.toSorted((a, b) => a.offset - b.offset);
  let end = 0;
  for (const region of byOffset) {
    const aligned = [region.start, region.size, region.offset].every((v) => v % PAGE_BYTES === 0);
    if (!aligned || region.size === 0) throw new HandshakeError('A memory region is not aligned.');
    if (region.offset !== end) throw new HandshakeError('The memory regions do not cover RAM.');
    end += region.size;
  }
  if (end !== memoryBytes) {
    throw new HandshakeError(`The VMM has ${end} bytes of RAM, but the build has ${memoryBytes}.`);
  }
  const byStart = regions.toSorted((a, b) => a.start - b.start);
  byStart.forEach((region, index) => {
    const next = byStart[index + 1];
    if (next !== undefined && region.start + region.size > next.start) {
      throw new HandshakeError('The memory regions overlap.');
    }
  });
}
