import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/**
 * So that what a request reads does not grow with what it leaves out: destroyed sandboxes,
 * entries that a filter excludes, events of others.
 */
const INDEXES = [
  // Every filter of the list of sandboxes, in its order.
  `create index sandboxes_team_living_created on sandboxes (team_id, created_at desc, id desc)
   where state <> 'stopped'`,
  `create index sandboxes_team_state on sandboxes (team_id, state, created_at desc, id desc)`,
  `create index sandboxes_team_template on sandboxes (team_id, template, created_at desc, id desc)
   where state <> 'stopped'`,
  `create index sandboxes_labels on sandboxes using gin (metadata jsonb_path_ops)
   where state <> 'stopped'`,
  // Its columns are the first ones of the index of the list.
  'drop index sandboxes_team_living',
  `create index sandboxes_stopped on sandboxes (ended_at) where state = 'stopped'`,
  'create index templates_team on templates (team_id)',

  // Every filter of the audit log, in its order. Most entries are successes, of sandboxes.
  'create index audit_logs_action on audit_logs (team_id, action, created_at desc, id desc)',
  'create index audit_logs_actor on audit_logs (team_id, actor_id, created_at desc, id desc)',
  `create index audit_logs_actor_type on audit_logs (team_id, actor_type, created_at desc, id desc)
   where actor_type <> 'api_key'`,
  `create index audit_logs_failures on audit_logs (team_id, created_at desc, id desc)
   where status <> 'success'`,
  `create index audit_logs_resource_type on audit_logs
   (team_id, resource_type, created_at desc, id desc) where resource_type <> 'sandbox'`,
  `create index audit_logs_admin on audit_logs (team_id, created_at desc, id desc)
   where scope <> 'team'`,
  // For their retention: entries are appended in the order of their time.
  `create index audit_logs_age on audit_logs using brin (created_at) with (autosummarize = on)`,
  `create index outbox_resource on outbox (team_id, resource, position)
   where position is not null`,

  // Of each webhook the first that are due, however many are pending.
  `create index webhook_deliveries_webhook_due on webhook_deliveries (webhook_id, next_attempt_at)
   where state = 'pending'`,
  'drop index webhook_deliveries_due',

  // Every write of an operation confirms its leases by their holder.
  'create index operations_holder on operations (holder)',
] as const;

export const indexes: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    for (const statement of INDEXES) await sql.raw(statement).execute(db);
  },
};
