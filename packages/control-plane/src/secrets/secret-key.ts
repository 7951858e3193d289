/**
 * The secret key of a database. Its fingerprint is a row, so that a control plane with another
 * key does not start: it could not read what the others have encrypted, nor they what it does.
 */
import { TorporError } from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Logger } from 'pino';
import { SYSTEM } from '../auth/principal.ts';
import { SecretBox } from '../auth/secret-box.ts';
import type { Database } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';

export interface SecretKeyOptions {
  readonly dataDir: string;
  /** That of the data directory if omitted, which is made at the first start. */
  readonly secretKey?: string | undefined;
  /** Discard what another key has encrypted, and use this one from now on. */
  readonly replaceSecretKey?: boolean | undefined;
  readonly logger: Logger;
}

/** Serialises starts that share a database. */
const SECRET_KEY_LOCK = '128077194588022';
const PURPOSE = 'secret-key';
const REPLACED = 'The secret key was replaced.';

/** Throws `host_setup` unless the key is the one that the database was used with. */
export async function openSecrets(
  db: Kysely<Database>,
  options: SecretKeyOptions,
): Promise<SecretBox> {
  const { dataDir, secretKey, replaceSecretKey = false, logger } = options;
  const hasKey = (await SecretBox.read(dataDir, secretKey)) !== undefined;
  // No file is made that would hide that the right one is missing.
  if (!hasKey && !replaceSecretKey && (await storedFingerprint(db)) !== undefined) throw otherKey();
  const secrets = await SecretBox.open(dataDir, secretKey);
  const fingerprint = secrets.fingerprint(PURPOSE, PURPOSE);
  await db.transaction().execute(async (transaction) => {
    await sql`select pg_advisory_xact_lock(${sql.lit(SECRET_KEY_LOCK)}::bigint)`.execute(
      transaction,
    );
    const stored = await storedFingerprint(transaction);
    if (stored === fingerprint) return;
    if (stored !== undefined) {
      if (!replaceSecretKey) throw otherKey();
      const webhooks = await discardSecrets(transaction);
      logger.warn({ webhooks }, 'The secret key was replaced; hosts must join again');
    }
    await transaction
      .insertInto('secret_key')
      .values({ id: 1, fingerprint })
      .onConflict((conflict) => conflict.column('id').doUpdateSet({ fingerprint }))
      .execute();
  });
  return secrets;
}

async function storedFingerprint(db: Kysely<Database>): Promise<string | undefined> {
  const row = await db.selectFrom('secret_key').select('fingerprint').executeTakeFirst();
  return row?.fingerprint;
}

/** Removes all that the key before has encrypted; returns the ids of the webhooks. */
async function discardSecrets(transaction: Transaction<Database>): Promise<string[]> {
  await transaction.deleteFrom('authority').execute();
  // They name the authority.
  await transaction.deleteFrom('host_tokens').execute();
  await transaction.deleteFrom('idempotency_keys').execute();
  await transaction.deleteFrom('oauth_attempts').execute();
  await transaction
    .updateTable('mails')
    .set({ state: 'dead', sealed: null, last_error: REPLACED, finished_at: new Date() })
    .where('sealed', 'is not', null)
    .execute();
  const webhooks = await transaction
    .deleteFrom('webhooks')
    .returning(['id', 'team_id', 'name'])
    .execute();
  await appendEvents(
    transaction,
    webhooks.map(({ id, team_id, name }) => ({
      kind: 'webhook.delete',
      resource: id,
      teamId: team_id,
      actor: SYSTEM,
      status: 'success',
      metadata: { name, reason: REPLACED },
    })),
  );
  return webhooks.map(({ id }) => id);
}

function otherKey(): TorporError {
  return new TorporError(
    'host_setup',
    'The database was used with another secret key than that of this server.',
    {
      remedy:
        'Set secret_key to the one that all servers of this database use, or restore secret.key in the data directory. If the key is lost, start once with --replace-secret-key: webhooks are deleted, and hosts must join again.',
    },
  );
}
