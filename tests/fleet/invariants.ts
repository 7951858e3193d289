/** What holds on every fleet once nothing is in progress, whatever has died. */
import type { Client } from 'pg';
import type { Receiver } from './receiver.ts';

type Database = Pick<Client, 'query'>;

async function rowsOf<R extends object>(database: Database, sql: string): Promise<R[]> {
  return (await database.query<R>(sql)).rows;
}

/** The sandboxes that a host has, by id. */
export type Known = ReadonlyMap<string, string>;

/**
 * Where rows and hosts disagree: a sandbox that is lost, is on a host where it should not be, or
 * is in another state there. `hosts`: what each host has.
 */
export async function disagreements(
  database: Database,
  hosts: ReadonlyMap<string, Known>,
): Promise<string[]> {
  const rows = await rowsOf<{ id: string; host_id: string; state: string }>(
    database,
    `select id, host_id, state from sandboxes where state <> 'stopped'`,
  );
  const expected = new Map(rows.map((row) => [row.id, row]));
  const found: string[] = [];
  for (const [hostId, known] of hosts) {
    for (const [id, state] of known) {
      const row = expected.get(id);
      if (row?.host_id !== hostId) found.push(`${id} is on ${hostId}, not ${row?.host_id}`);
      else if (row.state !== state) found.push(`${id} is ${state}, not ${row.state}`);
    }
  }
  for (const { id, host_id, state } of rows) {
    // One that could not be created, or was lost, is on no host.
    if (hosts.get(host_id)?.has(id) || state === 'error') continue;
    found.push(`${id} is ${state}, and not on ${host_id}`);
  }
  return found;
}

/** Events that the audit log does not have exactly once, and entries without an event. */
export async function inexactAudit(database: Database): Promise<string[]> {
  const rows = await rowsOf<{ id: string; kind: string; entries: string }>(
    database,
    `select coalesce(outbox.id, audit_logs.outbox_id) as id, kind, count(audit_logs.id) as entries
     from (select * from outbox where kind <> 'sandbox.state') as outbox
       full join (select * from audit_logs where outbox_id is not null) as audit_logs
         on audit_logs.outbox_id = outbox.id
     group by 1, 2, outbox.id having outbox.id is null or count(audit_logs.id) <> 1`,
  );
  return rows.map(({ id, kind, entries }) => `${kind} ${id}: ${entries} entries`);
}

interface Change {
  readonly resource: string;
  readonly kind: string;
  readonly status: string;
  readonly created_at: Date;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The state that a change has led to; that of a sandbox that is found again is in the event. */
const LEADS_TO: Readonly<Record<string, string>> = {
  'sandbox.lose': 'unreachable',
  'sandbox.fail': 'error',
  'sandbox.create': 'running',
  'sandbox.fork': 'running',
  'sandbox.resume': 'running',
  'sandbox.pause': 'paused',
  'snapshot.create': 'paused',
  'sandbox.destroy': 'stopped',
};

/** What is recorded of a sandbox: the state that it came to, or may have come to. */
interface Recorded {
  readonly state: string;
  readonly isCertain: boolean;
}

/** Sandboxes that came to states otherwise than by the changes that are recorded, in their order. */
export async function unrecordedChanges(database: Database): Promise<string[]> {
  const changes = await rowsOf<Change>(
    database,
    `select resource, kind, status, metadata, created_at from outbox
     where kind like 'sandbox.%' or kind = 'snapshot.create' order by id`,
  );
  const recorded = new Map<string, Recorded[]>();
  const reached = new Map<string, string[]>();
  for (const { resource, kind, status, metadata } of changes) {
    const id = metadata.sandbox ?? resource;
    const state = LEADS_TO[kind] ?? metadata.state ?? metadata.to;
    if (state === undefined) continue;
    const isCertain = status === 'success' || kind === 'sandbox.lose' || kind === 'sandbox.fail';
    if (kind === 'sandbox.state' && reached.get(id)?.at(-1) === state) continue;
    if (kind === 'sandbox.state') append(reached, id, state);
    // A snapshot that failed may have paused the sandbox.
    else if (isCertain || kind === 'snapshot.create') append(recorded, id, { state, isCertain });
  }
  return [...reached].flatMap(([id, states]) => {
    const known = recorded.get(id) ?? [];
    // The event of a create that failed is no success.
    if (states[0] === 'error') return [];
    if (explains(known, states)) return [];
    return [`${id} was ${states.join(', ')}; recorded: ${JSON.stringify(known)}`];
  });
}

/** Whether the changes lead from each of these states to the next one, and to no other. */
function explains(changes: readonly Recorded[], states: readonly string[]): boolean {
  let reached = 0;
  for (const { state, isCertain } of changes) {
    if (state === states[reached]) reached++;
    // A snapshot of a paused sandbox leaves it as it is.
    else if (isCertain && state !== states[reached - 1]) return false;
  }
  return reached === states.length;
}

function append<T>(lists: Map<string, T[]>, id: string, item: T): void {
  lists.set(id, [...(lists.get(id) ?? []), item]);
}

/** Sandboxes whose intervals of usage are not exactly the times between their changes. */
export async function inexactUsage(database: Database): Promise<string[]> {
  const changes = await rowsOf<Change>(
    database,
    `select resource, metadata, created_at from outbox
     where kind = 'sandbox.state' order by position`,
  );
  const intervals = await rowsOf<{ resource: string; vcpus: number; begins: Date; ends: Date }>(
    database,
    `select resource, vcpus, started_at as begins, ended_at as ends from usage_intervals
     where resource_type = 'sandbox' order by started_at`,
  );
  const expected = new Map<string, string[]>();
  const before = new Map<string, number | undefined>();
  for (const { resource, metadata, created_at } of changes) {
    const vcpus = vcpusIn(metadata);
    // What is unreachable is counted as before.
    if (metadata.state === 'unreachable' || vcpus === before.get(resource)) continue;
    const bounds = expected.get(resource) ?? [];
    if (before.get(resource) !== undefined) bounds.push(`until ${created_at.toISOString()}`);
    if (vcpus !== undefined) bounds.push(`${vcpus} from ${created_at.toISOString()}`);
    expected.set(resource, bounds);
    before.set(resource, vcpus);
  }
  const actual = new Map<string, string[]>();
  for (const { resource, vcpus, begins, ends } of intervals) {
    const bounds = actual.get(resource) ?? [];
    bounds.push(`${vcpus} from ${begins.toISOString()}`);
    if (ends !== null) bounds.push(`until ${ends.toISOString()}`);
    actual.set(resource, bounds);
  }
  return [...new Set([...expected.keys(), ...actual.keys()])].flatMap((id) => {
    const [is, should] = [actual, expected].map((bounds) => (bounds.get(id) ?? []).join(', '));
    return is === should ? [] : [`${id}: ${is}; by its changes: ${should}`];
  });
}

/** Undefined: it is not counted. One that could not be created has no disk. */
function vcpusIn(metadata: Readonly<Record<string, string>>): number | undefined {
  const { state, vcpus, disk_mb: disk } = metadata;
  if (state === 'stopped' || (state === 'error' && disk === undefined)) return undefined;
  return state === 'running' ? Number(vcpus) : 0;
}

/** Resources whose events the receiver of every event has not got all, in their order. */
export async function undelivered(database: Database, receiver: Receiver): Promise<string[]> {
  const events = await rowsOf<{ resource: string; ids: string[] }>(
    database,
    `select resource, array_agg(position::text order by position) as ids from outbox
     where kind like 'sandbox.%' group by resource`,
  );
  const received = receiver.byResource();
  return events.flatMap(({ resource, ids }) => {
    const got = received.get(resource) ?? [];
    return got.join() === ids.join() ? [] : [`${resource}: ${got.join()}; sent: ${ids.join()}`];
  });
}
