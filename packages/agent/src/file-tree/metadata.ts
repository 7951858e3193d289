import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  lchownSync,
  openSync,
} from 'node:fs';
import { setLinkXattr, setModificationTime } from '@torpor/linux';
import { isFatal, reasonOf } from './errors.ts';
import type { Entry } from './records.ts';

export interface Xattr {
  readonly name: string;
  readonly value: Buffer;
}

export interface MetadataOptions {
  /** Give files their numeric owners, if this process may. */
  readonly archive: boolean;
  /** Keep the set-user-ID and set-group-ID bits of files that come from elsewhere. */
  readonly keepSetId: boolean;
}

const PERMISSIONS = 0o7777;
const SET_ID = 0o6000;

type Report = (what: string) => void;

/** Gives a file what its entry says: owner, attributes, mode, time, in the order in which none undoes another. */
export function applyToFile(
  path: Buffer,
  fd: number,
  entry: Entry,
  xattrs: readonly Xattr[],
  options: MetadataOptions,
  report: Report,
): void {
  if (ownersAreKept(options)) fchownSync(fd, entry.uid, entry.gid);
  const [early, late] = partition(xattrs);
  setXattrs(path, early, report);
  const wanted = entry.mode & PERMISSIONS;
  const mode = options.keepSetId ? wanted : wanted & ~SET_ID;
  fchmodSync(fd, mode);
  if ((wanted & SET_ID) !== 0 && (fstatSync(fd).mode & PERMISSIONS) !== wanted) {
    report('its set-user-ID or set-group-ID bit');
  }
  setXattrs(path, late, report);
  setModificationTime(path, entry.mtime);
}

export function applyToDirectory(
  path: Buffer,
  entry: Entry,
  xattrs: readonly Xattr[],
  options: MetadataOptions,
  report: Report,
): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    // With the dot, what does not follow links still reaches the directory.
    const itself = Buffer.from(`/proc/self/fd/${fd}/.`);
    if (ownersAreKept(options)) fchownSync(fd, entry.uid, entry.gid);
    const [early, late] = partition(xattrs);
    setXattrs(itself, early, report);
    fchmodSync(fd, entry.mode & PERMISSIONS);
    setXattrs(itself, late, report);
    setModificationTime(itself, entry.mtime);
  } finally {
    closeSync(fd);
  }
}

/** Of symbolic links, FIFOs and device nodes. */
export function applyToSpecial(path: Buffer, entry: Entry, options: MetadataOptions): void {
  if (ownersAreKept(options)) lchownSync(path, entry.uid, entry.gid);
  if (entry.kind !== 'symlink') chmodSync(path, entry.mode & PERMISSIONS);
  setModificationTime(path, entry.mtime);
}

function ownersAreKept({ archive }: MetadataOptions): boolean {
  return archive && process.geteuid?.() === 0;
}

/** An ACL changes the mode and a new mode the ACL; a new owner and a new mode drop capabilities: those come last. */
function partition(xattrs: readonly Xattr[]): [early: Xattr[], late: Xattr[]] {
  const isEarly = ({ name }: Xattr) => name.startsWith('user.');
  return [xattrs.filter(isEarly), xattrs.filter((xattr) => !isEarly(xattr))];
}

function setXattrs(path: Buffer, xattrs: readonly Xattr[], report: Report): void {
  for (const { name, value } of xattrs) {
    try {
      setLinkXattr(path, name, value);
    } catch (error) {
      if (isFatal(error)) throw error;
      report(`its attribute ${name}: ${reasonOf(error)}`);
    }
  }
}
