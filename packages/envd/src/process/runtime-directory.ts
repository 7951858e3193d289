import { chownSync, existsSync, lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { User } from '../users.ts';

/** The parent directory on a system with a login manager; pam_systemd(8). */
const RUNTIME_DIRECTORIES = '/run/user';

/**
 * The directory for `XDG_RUNTIME_DIR` of an account, created on first use: on tmpfs, and for
 * the account only. Undefined if it cannot be created, or is not a directory.
 */
export function runtimeDirectory(
  { uid, gid }: Pick<User, 'uid' | 'gid'>,
  parent = RUNTIME_DIRECTORIES,
): string | undefined {
  const path = join(parent, String(uid));
  try {
    const found = lstatSync(path, { throwIfNoEntry: false });
    if (found !== undefined) return found.isDirectory() && found.uid === uid ? path : undefined;
    // Not recursive: for a path below /proc Node would retry forever.
    if (!existsSync(parent)) mkdirSync(parent, { mode: 0o755 });
    mkdirSync(path, { mode: 0o700 });
    chownSync(path, uid, gid);
    return path;
  } catch {
    // Programs run without it, as they do in most containers.
    return undefined;
  }
}
