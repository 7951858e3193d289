/** What is requested of a control plane with many rows. */
import type { rest } from '@torpor/protocol';
import type { StatisticsDatabase } from './statistics-database.ts';

export const PAGE_LIMIT = 20;
/** That a page may have. */
const MOST_ENTRIES = 1000;

/** What is requested of a control plane; the titles say of which rows. */
export const REQUEST_TITLES = {
  get: 'a sandbox',
  list: 'sandboxes, first page',
  'list-middle': 'sandboxes, page in the middle',
  'list-state': 'sandboxes of a rare state',
  'list-label': 'sandboxes with a rare label',
  'list-template': 'sandboxes of a rare template',
  audit: 'audit log, first page',
  'audit-middle': 'audit log, page in the middle',
  'audit-action': 'audit log, a rare action',
  'audit-actor': 'audit log, a rare actor',
  'audit-status': 'audit log, failures, which are rare',
  'audit-resource': 'audit log, one sandbox',
  events: 'the last 100 events',
  'events-resource': 'all events of one sandbox',
  'usage-day': 'usage of a day',
  'usage-month': 'usage of 30 days',
  quotas: 'quotas',
  metrics: 'metrics',
  create: 'create and destroy a sandbox',
} as const;
export type RequestName = keyof typeof REQUEST_TITLES;
export const NAMES = Object.keys(REQUEST_TITLES) as RequestName[];

/** What sums up more rows takes longer. */
export const LINEAR: ReadonlySet<RequestName> = new Set([
  'usage-day',
  'usage-month',
  'quotas',
  'metrics',
]);
/** The paths of the requests that read; `read` sends one. */
export async function pathsOf(
  database: StatisticsDatabase,
  read: (path: string) => Promise<string>,
): Promise<Record<Exclude<RequestName, 'create'>, string>> {
  const { rows } = await database.client.query(
    `select (select resource from outbox order by id limit 1 offset (select count(*) / 2 from outbox)) as resource,
       (select id from sandboxes where state = 'running' order by id limit 1) as id,
       (select head - 100 from event_stream) as after`,
  );
  const { resource, id, after } = rows[0];
  const middle = await middleOfAudit(database);
  const list = `/v1/sandboxes?limit=${PAGE_LIMIT}`;
  const audit = `/v1/audit-logs?limit=${PAGE_LIMIT}`;
  const day = 24 * 3_600_000;
  const since = (days: number) => new Date(Date.now() - days * day).toISOString();
  return {
    get: `/v1/sandboxes/${id}`,
    list,
    'list-middle': `${list}&next_token=${await middleToken(read, await database.count("sandboxes where state = 'running'"))}`,
    'list-state': `${list}&state=error`,
    'list-label': `${list}&metadata=customer%3Dc1`,
    'list-template': `${list}&template=rare`,
    audit,
    'audit-middle': `${audit}&before=${middle}`,
    'audit-action': `${audit}&resource_type=api_key&action=revoke`,
    'audit-actor': `${audit}&actor_id=keyrare`,
    'audit-status': `${audit}&status=error`,
    'audit-resource': `${audit}&resource_id=${resource}`,
    events: `/v1/events?after=${after}&follow=false`,
    'events-resource': `/v1/events?after=0&follow=false&resource_id=${resource}`,
    'usage-day': `/v1/usage?from=${since(1)}`,
    'usage-month': `/v1/usage?from=${since(30)}`,
    quotas: '/v1/quotas',
    metrics: '/metrics',
  };
}

async function middleOfAudit({ client }: StatisticsDatabase): Promise<string> {
  const { rows } = await client.query(
    `select created_at from audit_logs order by created_at
     limit 1 offset (select count(*) / 2 from audit_logs)`,
  );
  return rows[0].created_at.toISOString();
}

/** The token of the page after the first half of a list, or after as much as a page may have. */
async function middleToken(
  read: (path: string) => Promise<string>,
  count: number,
): Promise<string> {
  const path = `/v1/sandboxes?limit=${Math.min(Math.floor(count / 2), MOST_ENTRIES)}`;
  const { next_token: token } = JSON.parse(await read(path)) as rest.SandboxList;
  if (token === undefined) throw new Error('The list has one page.');
  return token;
}
