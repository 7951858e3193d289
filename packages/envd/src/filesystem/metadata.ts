import {
  getXattr,
  listXattrs,
  removeXattr,
  SystemError,
  setXattr,
  type XattrTarget,
} from '@torpor/linux';

/** Users' metadata are extended attributes with this prefix. */
const PREFIX = 'user.e2b.';

/** A file system without extended attributes, and files of other kinds than regular ones and directories. */
const WITHOUT_XATTRS = new Set(['ENOTSUP', 'EPERM', 'EACCES', 'ENOENT', 'ELOOP']);

/** The metadata of a file; none where the file system does not support any. */
export function readMetadata(target: XattrTarget): Record<string, string> {
  const metadata: Record<string, string> = {};
  try {
    for (const name of listXattrs(target)) {
      if (!name.startsWith(PREFIX)) continue;
      const value = getXattr(target, name);
      if (value !== undefined) metadata[name.slice(PREFIX.length)] = value.toString('utf8');
    }
  } catch (error) {
    if (error instanceof SystemError && WITHOUT_XATTRS.has(error.code)) return metadata;
    throw error;
  }
  return metadata;
}

/**
 * Replaces the metadata of a file. If that fails the file keeps its previous metadata. Throws
 * SystemError, `ENOTSUP` where the file system does not support any (not if there are none to
 * store), `ENOSPC` if it has no space for them.
 */
export function replaceMetadata(
  target: XattrTarget,
  metadata: Readonly<Record<string, string>>,
): void {
  const before = readMetadata(target);
  try {
    write(target, before, metadata);
  } catch (error) {
    write(target, readMetadata(target), before);
    throw error;
  }
}

function write(
  target: XattrTarget,
  present: Readonly<Record<string, string>>,
  wanted: Readonly<Record<string, string>>,
): void {
  for (const key of Object.keys(present)) {
    if (!Object.hasOwn(wanted, key)) removeXattr(target, PREFIX + key);
  }
  for (const [key, value] of Object.entries(wanted)) {
    if (present[key] !== value) setXattr(target, PREFIX + key, value);
  }
}
