import { envdFilesystem } from '@torpor/protocol';
import type { CallOptions, GuestClient } from './guest-client.ts';

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly type: 'file' | 'directory' | 'symlink' | '';
  readonly size: bigint;
  readonly mode: number;
  readonly permissions: string;
  readonly owner: string;
  readonly group: string;
  /** Unix seconds. */
  readonly modifiedAt: bigint;
  readonly symlinkTarget?: string;
}

/** The entries below a directory, down to `depth` levels (0 means 1). Throws `not_found`. */
export async function listDirectory(
  guest: GuestClient,
  path: string,
  depth: number,
  options: CallOptions,
): Promise<FileEntry[]> {
  const { entries } = await guest.call(options, () =>
    guest.filesystem.listDir({ path, depth }, guest.unary(options)),
  );
  return entries.map(fileEntry);
}

/** Makes a directory and its parents. Throws `already_exists`. */
export async function makeDirectory(
  guest: GuestClient,
  path: string,
  options: CallOptions,
): Promise<FileEntry | undefined> {
  const { entry } = await guest.call(options, () =>
    guest.filesystem.makeDir({ path }, guest.unary(options)),
  );
  return entry === undefined ? undefined : fileEntry(entry);
}

/** Removes a file, or a directory with all that is in it. Succeeds if it does not exist. */
export async function removePath(
  guest: GuestClient,
  path: string,
  options: CallOptions,
): Promise<void> {
  await guest.call(options, () => guest.filesystem.remove({ path }, guest.unary(options)));
}

const TYPE_NAMES: Record<envdFilesystem.FileType, FileEntry['type']> = {
  [envdFilesystem.FileType.UNSPECIFIED]: '',
  [envdFilesystem.FileType.FILE]: 'file',
  [envdFilesystem.FileType.DIRECTORY]: 'directory',
  [envdFilesystem.FileType.SYMLINK]: 'symlink',
};

function fileEntry(entry: envdFilesystem.EntryInfo): FileEntry {
  return {
    name: entry.name,
    path: entry.path,
    type: TYPE_NAMES[entry.type] ?? '',
    size: entry.size,
    mode: entry.mode,
    permissions: entry.permissions,
    owner: entry.owner,
    group: entry.group,
    modifiedAt: entry.modifiedTime?.seconds ?? 0n,
    ...(entry.symlinkTarget === undefined ? {} : { symlinkTarget: entry.symlinkTarget }),
  };
}
