import { randomBytes } from 'node:crypto';
import { lstat, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Account } from './account.ts';
import type { PostgresBinaries } from './binaries.ts';
import { isErrno } from './errno.ts';
import { type DatabaseLayout, makeDirectory } from './layout.ts';
import { requireProgram } from './run-program.ts';

/** The database's superuser, and the only role that may connect. */
export const ROLE = 'torpor';

const STAGING_PREFIX = 'data.staging-';

/**
 * Creates the database cluster if there is none. Concurrent starts each make one; all use
 * the one that is complete first.
 */
export async function createCluster(
  layout: DatabaseLayout,
  binaries: PostgresBinaries,
  account: Account | undefined,
): Promise<void> {
  if (await exists(join(layout.data, 'PG_VERSION'))) return;
  await removeStaleStagings(layout.root);
  const tag = randomBytes(4).toString('hex');
  const staging = join(layout.root, `${STAGING_PREFIX}${process.pid}-${tag}`);
  try {
    await makeDirectory(staging, 0o700, account);
    await requireProgram(
      binaries.initdb,
      [
        `--pgdata=${staging}`,
        `--username=${ROLE}`,
        '--auth=peer',
        '--encoding=UTF8',
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--locale=C',
        '--no-instructions',
      ],
      `Creating the database in ${layout.data}`,
      {
        account,
        remedy: 'Read the message; the usual causes are a full disk and missing permissions.',
      },
    );
    await rename(staging, layout.data);
  } catch (error) {
    if (!isErrno(error, 'ENOTEMPTY') && !isErrno(error, 'EEXIST')) throw error;
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
  await syncDirectory(layout.root);
}

/** Removes the leftovers of processes that were killed while they created the database. */
async function removeStaleStagings(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    if (!name.startsWith(STAGING_PREFIX)) continue;
    const maker = Number.parseInt(name.slice(STAGING_PREFIX.length), 10);
    if (!isAlive(maker)) await rm(join(root, name), { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => undefined)) !== undefined;
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isErrno(error, 'EPERM');
  }
}
