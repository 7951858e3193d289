import { createHash } from 'node:crypto';
import { chmod, chown, lstat, mkdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import type { Account } from './account.ts';
import { isErrno } from './errno.ts';
import { runProgram } from './run-program.ts';

/** PostgreSQL names its socket after a port, even if it listens on none. */
export const PORT = 5432;
/** sun_path of sockaddr_un(7) without its final NUL. */
const MAX_SOCKET_PATH_BYTES = 107;

/** The paths of a data directory's database. */
export interface DatabaseLayout {
  readonly root: string;
  readonly data: string;
  readonly socketDirectory: string;
  readonly logFile: string;
}

/** Creates the missing directories, and lets the account traverse the data directory. Throws `host_setup`. */
export async function openDatabaseLayout(
  dataDir: string,
  account: Account | undefined,
): Promise<DatabaseLayout> {
  await mkdir(dataDir, { recursive: true, mode: 0o711 });
  const base = await realpath(dataDir);
  if (account !== undefined) {
    const { mode } = await lstat(base);
    if ((mode & 0o001) === 0) await chmod(base, (mode & 0o7777) | 0o011);
  }
  const root = join(base, 'db');
  await makeDirectory(root, 0o711, undefined);
  const preferred = join(root, 's');
  const fits = Buffer.byteLength(join(preferred, `.s.PGSQL.${PORT}.lock`)) <= MAX_SOCKET_PATH_BYTES;
  const tag = createHash('sha256').update(root).digest('hex').slice(0, 12);
  const socketDirectory = fits ? preferred : join('/tmp', `torpor-db-${tag}`);
  await makeDirectory(socketDirectory, 0o700, account);
  return { root, data: join(root, 'data'), socketDirectory, logFile: join(root, 'postgresql.log') };
}

/** Creates a directory with this mode and owner; accepts one that is ours or the owner's. Throws `host_setup`. */
export async function makeDirectory(
  path: string,
  mode: number,
  owner: Account | undefined,
): Promise<void> {
  try {
    await mkdir(path, { mode });
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    const found = await lstat(path);
    const trusted = [process.getuid?.(), owner?.uid];
    if (!found.isDirectory() || !trusted.includes(found.uid)) {
      throw new TorporError(
        'host_setup',
        `${path} exists, but is not a directory that this Torpor created.`,
        {
          remedy: `Find out what ${path} is, and remove it.`,
        },
      );
    }
  }
  await chmod(path, mode);
  if (owner !== undefined) await chown(path, owner.uid, owner.gid);
}

/** The account must be able to traverse every directory that leads to its data. */
export async function requireReachable(root: string, account: Account | undefined): Promise<void> {
  if (account === undefined) return;
  const result = await runProgram('test', ['-x', root], { account });
  if (result.exitCode === 0) return;
  throw new TorporError('host_setup', `The account ${account.name} cannot reach ${root}.`, {
    remedy:
      'Choose a data directory (TORPOR_DATA_DIR) whose parents other users may traverse, for example /var/lib/torpor.',
  });
}
