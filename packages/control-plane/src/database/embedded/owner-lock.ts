import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import pg from 'pg';

const TIMEOUT_MS = 5_000;
/** An arbitrary number that nothing else locks: "torpor" in ASCII. */
const LOCK = '128077194588018';

/**
 * Takes the session lock that only one owner of the database can hold; the returned
 * connection holds it. The server releases a killed owner's lock as soon as it notices that
 * the connection is closed. Throws `conflict`; `pidFile` says where the other owner's pid is.
 */
export async function takeOwnerLock(
  connection: pg.ClientConfig,
  pidFile: string,
): Promise<pg.Client> {
  const client = new pg.Client({ ...connection, connectionTimeoutMillis: TIMEOUT_MS });
  client.on('error', () => undefined);
  await client.connect();
  const deadline = Date.now() + TIMEOUT_MS;
  while (!(await tryLock(client))) {
    if (Date.now() > deadline) {
      await client.end();
      throw new TorporError('conflict', 'Another Torpor server is using this data directory.', {
        remedy: `Stop it first (its pid is in ${pidFile}), or use another data directory (--data-dir).`,
      });
    }
    await delay(50);
  }
  return client;
}

async function tryLock(client: pg.Client): Promise<boolean> {
  const { rows } = await client.query<{ held: boolean }>(
    `select pg_try_advisory_lock(${LOCK}) as held`,
  );
  return rows[0]?.held === true;
}
