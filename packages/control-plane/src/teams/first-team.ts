import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newId, PERMISSION_NAMES } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import { sql } from 'kysely';
import type { Logger } from 'pino';
import { z } from 'zod';
import { ApiKeyStore, insertApiKey } from '../auth/api-keys.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import { writePrivateFile } from '../data-directory/private-file.ts';
import type { Database } from '../database/schema.ts';
import { liftQuotas } from './quotas.ts';

/** The key of the owner of the data directory. */
export interface LocalCredentials {
  readonly apiKey: string;
  readonly teamId: string;
}

const credentialsSchema = z.strictObject({ api_key: z.string(), team_id: z.string() });

/** Serialises first starts that share a database. */
const FIRST_TEAM_LOCK = '128077194588019';

/**
 * The API key in `<dataDir>/credentials.json`. The first start creates the
 * team and the key. A new key is created if the file is lost or belongs to another
 * database: any user who can write the data directory may use the API.
 */
export async function ensureLocalCredentials(
  db: Kysely<Database>,
  dataDir: string,
  logger: Logger,
): Promise<LocalCredentials> {
  const path = join(dataDir, 'credentials.json');
  const known = await readCredentials(path);
  if (known !== undefined && (await renew(db, known))) return known;
  const credentials = await db.transaction().execute(async (transaction) => {
    await sql`select pg_advisory_xact_lock(${sql.lit(FIRST_TEAM_LOCK)}::bigint)`.execute(
      transaction,
    );
    const first = await transaction
      .selectFrom('teams')
      .select('id')
      .where('id', '<>', PLATFORM_TEAM_ID)
      .orderBy('created_at')
      .executeTakeFirst();
    const teamId = first?.id ?? newId('team');
    if (first === undefined) {
      await transaction.insertInto('teams').values({ id: teamId, name: 'Default' }).execute();
      await liftQuotas(transaction, teamId);
    }
    // Who can write the data directory may do everything.
    const { key: apiKey } = await insertApiKey(transaction, {
      teamId,
      name: 'local',
      scopes: PERMISSION_NAMES,
      createdBy: null,
      userId: null,
    });
    // Before the commit: a key that was not written could not be used.
    await writePrivateFile(
      path,
      `${JSON.stringify({ api_key: apiKey, team_id: teamId }, null, 2)}\n`,
    );
    return { apiKey, teamId };
  });
  logger.info({ path, teamId: credentials.teamId }, 'API key created');
  return credentials;
}

async function readCredentials(path: string): Promise<LocalCredentials | undefined> {
  try {
    const parsed = credentialsSchema.parse(JSON.parse(await readFile(path, 'utf8')));
    return { apiKey: parsed.api_key, teamId: parsed.team_id };
  } catch {
    return undefined;
  }
}

/** Whether the key is valid. It gets the permissions that did not exist when it was created. */
async function renew(db: Kysely<Database>, credentials: LocalCredentials): Promise<boolean> {
  const principal = await new ApiKeyStore(db)
    .authenticate(credentials.apiKey)
    .catch(() => undefined);
  if (principal?.teamId !== credentials.teamId) return false;
  await db
    .updateTable('api_keys')
    .set({ scopes: [...PERMISSION_NAMES] })
    .where('id', '=', principal.actor.id)
    .execute();
  return true;
}
