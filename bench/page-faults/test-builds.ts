import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  applyChanges,
  BLOCK_SIZE,
  BlockChange,
  newBuildId,
  writeMemoryHeader,
  zeroMapping,
} from '@torpor/builds';

/** A build of memory, in the form for a page server. */
export interface MemoryBuild {
  readonly headerPath: string;
  readonly diffPaths: Readonly<Record<string, string>>;
  /** The blocks that are stored, one after the other. */
  readonly diffPath: string;
}

/** Writes blocks that start with their number; returns the file's path. */
async function writeBlocks(path: string, numbers: Iterable<number>): Promise<string> {
  await using file = await open(path, 'wx');
  let pending: Buffer[] = [];
  for (const number of numbers) {
    const block = Buffer.alloc(BLOCK_SIZE, 0xa5);
    block.writeUInt32LE(number);
    pending.push(block);
    if (pending.length === 256) {
      await file.writev(pending);
      pending = [];
    }
  }
  if (pending.length > 0) await file.writev(pending);
  return path;
}

/** Writes a build whose stored blocks start with their number; the others are zero. */
export async function writeMemoryBuild(
  directory: string,
  name: string,
  blocks: number,
  isStored: (block: number) => boolean,
): Promise<MemoryBuild> {
  const id = newBuildId();
  const changes = Uint8Array.from({ length: blocks }, (_, block) =>
    isStored(block) ? BlockChange.data : BlockChange.zero,
  );
  const stored = Array.from(changes.keys()).filter(isStored);
  const diffPath = await writeBlocks(join(directory, name), stored);
  const headerPath = join(directory, `${name}.header`);
  const mapping = applyChanges(zeroMapping(blocks), id, changes);
  await writeFile(
    headerPath,
    writeMemoryHeader({ generation: 0, buildId: id, baseBuildId: id, mapping }),
  );
  return { headerPath, diffPaths: { [id]: diffPath }, diffPath };
}
