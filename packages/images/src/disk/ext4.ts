import { createHash } from 'node:crypto';
import { lstat, lutimes, readdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';

const BLOCK_SIZE = 4096;
const INODE_SIZE = 256;
/** For block and inode bitmaps, group descriptors and extents of fragmented files. Free space is a hole. */
const OVERHEAD_RATIO = 1.03;
const OVERHEAD_BYTES = 8 * 1024 * 1024;
/** Modification time of everything in an image, for reproducible builds. */
const EPOCH_SECONDS = 1_700_000_000;

export interface Ext4Options {
  /** At most 16 bytes. */
  readonly label: string;
  /** The same seed and tree give the same UUID and directory hashes. */
  readonly seed: string;
}

/**
 * Makes a read-only ext4 image of a directory tree, as large as its contents.
 * It has no journal and no reserved blocks, since nothing will ever write to it.
 * Owners, modes and extended attributes are kept (mkfs.ext4(8), option -d).
 */
export async function makeExt4FromTree(
  path: string,
  tree: string,
  options: Ext4Options,
): Promise<void> {
  const { blocks, inodes } = await measureTree(tree);
  const contentBytes = blocks * BLOCK_SIZE + inodes * INODE_SIZE;
  const size = Math.ceil((contentBytes * OVERHEAD_RATIO + OVERHEAD_BYTES) / BLOCK_SIZE);
  const uuid = uuidFrom(options.seed);
  await writeFile(path, '');
  await truncate(path, size * BLOCK_SIZE);
  await runCommand(
    'mkfs.ext4',
    [
      '-q',
      '-F',
      ...['-b', String(BLOCK_SIZE), '-m', '0', '-I', String(INODE_SIZE)],
      // Room for what mkfs itself needs: the root, lost+found and the reserved inodes.
      ...['-N', String(inodes + 32), '-L', options.label, '-U', uuid],
      ...['-O', '^has_journal,^resize_inode'],
      ...['-E', `hash_seed=${uuid},lazy_itable_init=1,assume_storage_prezeroed=1,nodiscard`],
      ...['-d', tree],
      path,
    ],
    { env: { ...toolEnvironment(), E2FSPROGS_FAKE_TIME: String(EPOCH_SECONDS) } },
  );
}

/** Sets the times of everything below a directory to one constant, so that an image of it depends on its contents only. */
export async function normalizeTimes(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await normalizeTimes(path);
    else await lutimes(path, EPOCH_SECONDS, EPOCH_SECONDS);
  }
  await lutimes(directory, EPOCH_SECONDS, EPOCH_SECONDS);
}

/** The environment of programs whose messages are parsed here. */
export function toolEnvironment(): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined) environment[name] = value;
  }
  return { ...environment, LC_ALL: 'C' };
}

async function measureTree(directory: string): Promise<{ blocks: number; inodes: number }> {
  let blocks = 1;
  let inodes = 1;
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) {
      const below = await measureTree(path);
      blocks += below.blocks;
      inodes += below.inodes;
      continue;
    }
    inodes += 1;
    if (entry.isFile()) blocks += Math.ceil((await lstat(path)).size / BLOCK_SIZE);
    // A short target is kept in the inode; a long one takes a block.
    if (entry.isSymbolicLink() && (await lstat(path)).size >= 60) blocks += 1;
  }
  return { blocks, inodes };
}

/** A UUID (version 8, RFC 9562: "custom") made from a text. */
function uuidFrom(seed: string): string {
  const bytes = createHash('sha256').update(seed).digest().subarray(0, 16);
  bytes[6] = (bytes.readUInt8(6) & 0x0f) | 0x80;
  bytes[8] = (bytes.readUInt8(8) & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20),
  ].join('-');
}
