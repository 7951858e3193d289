import { readFile } from 'node:fs/promises';
import { TorporError } from '@torpor/protocol';
import type { Account } from './account.ts';
import { runProgram } from './run-program.ts';

/** The unprivileged account under which the embedded PostgreSQL runs when we are root. */
const DATABASE_ACCOUNT = 'torpor-db';

/**
 * The account for the database, or undefined if this process is unprivileged
 * already and can run PostgreSQL itself. PostgreSQL refuses to run as root, so for
 * root a system user is made once (useradd(8)). Throws `host_setup`.
 */
export async function databaseAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const existing = await findAccount(DATABASE_ACCOUNT);
  if (existing !== undefined) return existing;
  const result = await runProgram('useradd', [
    '--system',
    '--user-group',
    '--no-create-home',
    '--home-dir',
    '/nonexistent',
    '--shell',
    '/usr/sbin/nologin',
    DATABASE_ACCOUNT,
  ]);
  // Another process may have created it meanwhile, so only its existence is checked.
  const account = await findAccount(DATABASE_ACCOUNT);
  if (account !== undefined) return account;
  throw new TorporError(
    'host_setup',
    `The account ${DATABASE_ACCOUNT} for the database could not be created: ${result.spawnError?.message ?? result.output}`,
    {
      remedy: `Create it with \`useradd --system ${DATABASE_ACCOUNT}\`, or set DATABASE_URL to a PostgreSQL of your own.`,
    },
  );
}

async function findAccount(name: string): Promise<Account | undefined> {
  const passwd = await readFile('/etc/passwd', 'utf8');
  for (const line of passwd.split('\n')) {
    const [user, , uid, gid] = line.split(':');
    if (user === name && uid !== undefined && gid !== undefined) {
      return { name, uid: Number(uid), gid: Number(gid) };
    }
  }
  return undefined;
}
