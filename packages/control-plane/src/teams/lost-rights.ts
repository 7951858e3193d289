/** What ends with the rights of the user who made it, also with a key, so that it does not outlive them. */
import type { Permission } from '@torpor/protocol';
import { sql, type Transaction } from 'kysely';
import type { Actor } from '../auth/principal.ts';
import type { Database } from '../database/schema.ts';
import { appendEvents, type OutboxEvent } from '../events/outbox.ts';

export interface LostRights {
  readonly userId: string;
  /** Only what is of this team. */
  readonly teamId?: string;
  /** What the user may still do. */
  readonly keep: ReadonlySet<Permission>;
  readonly actor: Actor;
}

const REASON = 'its creator lost the permission';

/**
 * Revokes the API keys, invitations and tokens of hosts that the user made and may not make any
 * more. Webhooks, which others may rely on, are kept but disabled: an admin who enables one
 * answers for it from then on.
 */
export async function revokeLost(
  transaction: Transaction<Database>,
  lost: LostRights,
): Promise<void> {
  const events = [
    ...(await revokeKeys(transaction, lost)),
    ...(lost.keep.has('team.write') ? [] : await revokeInvitations(transaction, lost)),
    ...(await revokeHostTokens(transaction, lost)),
    ...(lost.keep.has('webhooks.write') ? [] : await disableWebhooks(transaction, lost)),
  ];
  const { actor } = lost;
  await appendEvents(
    transaction,
    events.map((event) => ({ ...event, actor, status: 'success' })),
  );
}

type Revoked = Pick<OutboxEvent, 'kind' | 'resource' | 'teamId' | 'metadata'>;

async function revokeKeys(
  transaction: Transaction<Database>,
  { userId, teamId, keep }: LostRights,
): Promise<Revoked[]> {
  let query = transaction
    .deleteFrom('api_keys')
    .where('user_id', '=', userId)
    .where(sql<boolean>`not (scopes <@ ${[...keep]}::text[])`);
  if (teamId !== undefined) query = query.where('team_id', '=', teamId);
  const rows = await query.returning(['id', 'team_id', 'name', 'key_prefix']).execute();
  return rows.map(({ id, team_id, name, key_prefix: prefix }) => ({
    kind: 'api_key.revoke',
    resource: id,
    teamId: team_id,
    metadata: { name, prefix, reason: REASON },
  }));
}

async function revokeInvitations(
  transaction: Transaction<Database>,
  { userId, teamId }: LostRights,
): Promise<Revoked[]> {
  let query = transaction.deleteFrom('invitations').where('user_id', '=', userId);
  if (teamId !== undefined) query = query.where('team_id', '=', teamId);
  const rows = await query.returning(['id', 'team_id', 'role']).execute();
  return rows.map(({ id, team_id, role }) => ({
    kind: 'invitation.revoke',
    resource: id,
    teamId: team_id,
    metadata: { role, reason: REASON },
  }));
}

async function revokeHostTokens(
  transaction: Transaction<Database>,
  { userId, teamId, keep }: LostRights,
): Promise<Revoked[]> {
  let query = transaction
    .deleteFrom('host_tokens')
    .using('hosts')
    .whereRef('hosts.id', '=', 'host_tokens.host_id')
    .where('host_tokens.user_id', '=', userId)
    .where(sql<boolean>`not (needs <@ ${[...keep]}::text[])`);
  if (teamId !== undefined) query = query.where('host_tokens.team_id', '=', teamId);
  const rows = await query
    .returning(['hosts.id', 'hosts.name', 'hosts.team_id', 'hosts.audit_team_id'])
    .execute();
  return rows.map(({ id, name, team_id, audit_team_id }) => ({
    kind: 'host.update',
    resource: id,
    teamId: team_id ?? audit_team_id,
    metadata: { name, token: 'revoked', reason: REASON },
  }));
}

async function disableWebhooks(
  transaction: Transaction<Database>,
  { userId, teamId }: LostRights,
): Promise<Revoked[]> {
  let query = transaction
    .updateTable('webhooks')
    .set({ enabled: false, updated_at: new Date() })
    .where('user_id', '=', userId)
    .where('enabled', '=', true);
  if (teamId !== undefined) query = query.where('team_id', '=', teamId);
  const rows = await query.returning(['id', 'team_id', 'name']).execute();
  return rows.map(({ id, team_id, name }) => ({
    kind: 'webhook.update',
    resource: id,
    teamId: team_id,
    metadata: { name, enabled: 'false', reason: REASON },
  }));
}
