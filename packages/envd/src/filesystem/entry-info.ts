import type { BigIntStats } from 'node:fs';
import { constants } from 'node:fs';
import { lstat, realpath, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { TimestampSchema } from '@bufbuild/protobuf/wkt';
import { envdFilesystem } from '@torpor/protocol';
import type { UserDatabase } from '../users.ts';
import { readMetadata } from './metadata.ts';

export type EntryInfoInit = MessageInitShape<typeof envdFilesystem.EntryInfoSchema>;

/**
 * Describes the entry at a path. A symbolic link has the type, the mode and the metadata of its
 * target, its own size, time, owner and permissions, and the resolved path in `symlinkTarget`;
 * a dangling link is a `SYMLINK` whose target is itself. Throws the errors of lstat(2).
 */
export async function entryInfo(path: string, users: UserDatabase): Promise<EntryInfoInit> {
  const own = await lstat(path, { bigint: true });
  const target = own.isSymbolicLink() ? await linkTarget(path) : undefined;
  const described = target === undefined ? own : target.stats;
  return {
    name: basename(path) || '/',
    path,
    type: described === undefined ? envdFilesystem.FileType.SYMLINK : fileType(described),
    mode: described === undefined ? 0 : Number(described.mode) & 0o777,
    size: own.size,
    permissions: permissionString(Number(own.mode)),
    owner: users.userName(Number(own.uid)),
    group: users.groupName(Number(own.gid)),
    modifiedTime: timestampOf(own.mtimeNs),
    metadata: readMetadata(path),
    ...(target === undefined ? {} : { symlinkTarget: target.path }),
  };
}

async function linkTarget(
  path: string,
): Promise<{ readonly path: string; readonly stats: BigIntStats | undefined }> {
  try {
    const resolved = await realpath(path);
    return { path: resolved, stats: await stat(resolved, { bigint: true }) };
  } catch {
    return { path, stats: undefined };
  }
}

function fileType(stats: BigIntStats): envdFilesystem.FileType {
  if (stats.isFile()) return envdFilesystem.FileType.FILE;
  if (stats.isDirectory()) return envdFilesystem.FileType.DIRECTORY;
  return envdFilesystem.FileType.UNSPECIFIED;
}

function timestampOf(nanoseconds: bigint) {
  const billion = 1_000_000_000n;
  // Division rounds towards zero; a time before 1970 needs its nanoseconds positive.
  const nanos = ((nanoseconds % billion) + billion) % billion;
  return create(TimestampSchema, {
    seconds: (nanoseconds - nanos) / billion,
    nanos: Number(nanos),
  });
}

/** Letters of the file kinds, as Go's os.FileMode writes them, which E2B's clients see. */
const KIND_LETTERS = new Map<number, string>([
  [constants.S_IFDIR, 'd'],
  [constants.S_IFLNK, 'L'],
  [constants.S_IFBLK, 'D'],
  [constants.S_IFCHR, 'Dc'],
  [constants.S_IFIFO, 'p'],
  [constants.S_IFSOCK, 'S'],
]);

/**
 * A mode as text: `-rw-r--r--`, `drwxr-xr-x`; setuid, setgid and sticky are letters
 * in front, `dtrwxrwxrwx`, as in Go's os.FileMode.
 */
export function permissionString(mode: number): string {
  const kind = KIND_LETTERS.get(mode & constants.S_IFMT) ?? '';
  // Go's order of the letters: d a l T L D p S u g c t.
  const setuid = mode & 0o4000 ? 'u' : '';
  const setgid = mode & 0o2000 ? 'g' : '';
  const sticky = mode & 0o1000 ? 't' : '';
  const letters =
    kind === 'Dc' ? `D${setuid}${setgid}c${sticky}` : `${kind}${setuid}${setgid}${sticky}`;
  const bits = [...'rwxrwxrwx'].map((letter, index) => (mode & (0o400 >> index) ? letter : '-'));
  return (letters || '-') + bits.join('');
}
