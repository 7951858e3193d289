import { open } from 'node:fs/promises';
import type { MemoryReader } from '../diff/memory-reader.ts';
import { BLOCK_SIZE, type Mapping, MappingBuilder, ZERO_INDEX } from '../header/mapping.ts';

export interface CompactionPolicy {
  /** Compact a header that names more builds than this, itself included. */
  readonly maxBuilds: number;
  /** Compact when less than this share (0…1) of the blocks that its builds store is still used. */
  readonly minLiveShare: number;
}

/** 16 open files per VM, and at most four times the bytes that it needs. */
const DEFAULT_COMPACTION: CompactionPolicy = { maxBuilds: 16, minLiveShare: 0.25 };

/** Whether a build's chain is so long, or so much of it unused, that compaction is worthwhile. */
export function needsCompaction(
  mapping: Mapping,
  storedBlocks: (buildId: string) => number,
  policy: CompactionPolicy = DEFAULT_COMPACTION,
): boolean {
  if (mapping.builds.length > policy.maxBuilds) return true;
  if (mapping.builds.length < 2) return false;
  const live = [...mapping.blocksByBuild().values()].reduce((sum, blocks) => sum + blocks, 0);
  const stored = mapping.builds.reduce((sum, id) => sum + storedBlocks(id), 0);
  return live < stored * policy.minLiveShare;
}

const CHUNK_BLOCKS = 256;

/** Copies every block that is not zero to one new file at `path`; returns the mapping onto it. */
export async function writeLiveBlocks(
  reader: MemoryReader,
  path: string,
  buildId: string,
): Promise<Mapping> {
  await using output = await open(path, 'wx', 0o600);
  const chunk = Buffer.allocUnsafe(CHUNK_BLOCKS * BLOCK_SIZE);
  const builder = new MappingBuilder();
  const { mapping } = reader;
  let stored = 0;
  for (let run = 0; run < mapping.runCount; run++) {
    const [start, end] = [mapping.startOf(run), mapping.endOf(run)];
    if (mapping.buildOf(run) === ZERO_INDEX) {
      builder.appendZero(end - start);
      continue;
    }
    builder.append(end - start, buildId, stored);
    for (let block = start; block < end; block += CHUNK_BLOCKS) {
      const piece = chunk.subarray(0, Math.min(CHUNK_BLOCKS, end - block) * BLOCK_SIZE);
      await reader.read(piece, block);
      await output.writeFile(piece);
    }
    stored += end - start;
  }
  return builder.build();
}
