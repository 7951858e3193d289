/**
 * A control plane dies in a step of an operation: its connections to database and agent are
 * cut there. Another on the same database finishes the operation or rolls it back.
 */
import { Fleet, type Member, type Step, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

/** For a statement that reaches the database after the test has let the leases expire. */
const LEASE_MS = 2_000;

let fleet: Fleet;
let survivor: Member;

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  survivor = await fleet.join();
});
afterAll(() => fleet[Symbol.asyncDispose]());

interface Target {
  /** The id of the operation's sandbox; undefined if it creates one. */
  readonly id?: string;
  readonly name?: string;
}

interface Subject {
  readonly kind: string;
  /** The call to the agent. */
  readonly call?: string;
  prepare(): Promise<Target>;
  act(on: Member, target: Target): Promise<Response>;
}

let names = 0;
const newName = () => `snapshot-${++names}`;

async function paused(): Promise<Target> {
  const { id } = await survivor.create();
  await survivor.call('POST', `/sandboxes/${id}/pause`);
  return { id };
}

async function named(): Promise<Target> {
  const { id } = await survivor.create();
  const name = newName();
  await survivor.call('POST', '/snapshots', { sandbox_id: id, name });
  return { id, name };
}

const running = async (): Promise<Target> => ({ id: (await survivor.create()).id });
const post =
  (verb: string) =>
  (on: Member, { id }: Target) =>
    on.call('POST', `/sandboxes/${id}/${verb}`, verb === 'fork' ? { count: 2 } : undefined);
const snapshot = (on: Member, { id, name }: Target) =>
  on.call('POST', '/snapshots?overwrite=true', { sandbox_id: id, name });

const OPERATIONS: Readonly<Record<string, Subject>> = {
  create: {
    kind: 'sandbox.create',
    call: 'createSandbox',
    prepare: async () => ({}),
    act: (on) => on.call('POST', '/sandboxes', { memory_mb: 128 }),
  },
  pause: { kind: 'sandbox.pause', call: 'pauseSandbox', prepare: running, act: post('pause') },
  resume: { kind: 'sandbox.resume', call: 'resumeSandbox', prepare: paused, act: post('resume') },
  fork: { kind: 'sandbox.fork', call: 'forkSandbox', prepare: running, act: post('fork') },
  destroy: {
    kind: 'sandbox.destroy',
    call: 'destroySandbox',
    prepare: running,
    act: (on, { id }) => on.call('DELETE', `/sandboxes/${id}`),
  },
  snapshot: {
    kind: 'snapshot.create',
    call: 'createSnapshot',
    prepare: async () => ({ ...(await running()), name: newName() }),
    act: snapshot,
  },
  'a snapshot that replaces one': {
    kind: 'snapshot.create',
    call: 'createSnapshot',
    prepare: async () => ({ ...(await running()), name: (await named()).name ?? '' }),
    act: snapshot,
  },
  'delete a snapshot': {
    kind: 'snapshot.delete',
    prepare: named,
    act: (on, { name }) => on.call('DELETE', `/snapshots/${name}`),
  },
};

/** What is recorded of the operation: it had not begun, its control plane completed it, or another settled it. */
type Known = 'nothing' | 'completed' | 'settled';

interface Death {
  readonly step: (subject: Subject) => Step | undefined;
  readonly known: Known;
}

const call = (when: Step['when']) => (subject: Subject) =>
  subject.call === undefined ? undefined : { call: subject.call, when };
const sql = (pattern: RegExp, when: Step['when'], following?: RegExp) => () => ({
  sql: pattern,
  when,
  following,
});
const EVENTS = /insert into "outbox"/;

const DEATHS: Readonly<Record<string, Death>> = {
  'before its lock is taken': { step: sql(/insert into "operations"/, 'before'), known: 'nothing' },
  'with its lock taken': { step: sql(/insert into "operations"/, 'after'), known: 'nothing' },
  'within its first transaction': {
    step: ({ call }) =>
      call === undefined ? undefined : { sql: /(update|insert into) "sandboxes"/, when: 'after' },
    known: 'nothing',
  },
  'before the agent is called': { step: call('before'), known: 'settled' },
  'when the agent has acted': { step: call('after'), known: 'settled' },
  'within its last transaction': { step: sql(EVENTS, 'before'), known: 'settled' },
  'with its events written': { step: sql(EVENTS, 'after'), known: 'settled' },
  'before its last commit': {
    step: sql(/delete from "operations"/, 'after', EVENTS),
    known: 'settled',
  },
  'with its last transaction committed': {
    step: sql(/commit/, 'after', EVENTS),
    known: 'completed',
  },
};

/** Expires the leases that are still held by the control plane that took them first. */
async function expireLeases(): Promise<void> {
  await fleet.database.query('update operations set expires_at = now() where begun_by = holder');
}

/** Whether nothing is in progress, and rows and agent agree. */
async function isSettled(): Promise<boolean> {
  if ((await fleet.count('operations')) > 0) return false;
  if ((await fleet.count(`templates where state <> 'ready'`)) > 0) return false;
  const { rows } = await fleet.database.query<{ id: string; state: string }>(
    `select id, state from sandboxes where state <> 'stopped'`,
  );
  const known = new Map([...fleet.agent.sandboxes].map(([id, { status }]) => [id, status]));
  const agree = rows.every(({ id, state }) => state === (known.get(id) ?? 'error'));
  const ids = new Set(rows.map(({ id }) => id));
  return agree && [...known.keys()].every((id) => ids.has(id));
}

async function readyTemplates(): Promise<string[]> {
  const { rows } = await fleet.database.query(`select id from templates where state = 'ready'`);
  return rows.map(({ id }) => String(id)).toSorted();
}

describe.each(Object.entries(OPERATIONS))('%s', (_, subject) => {
  const deaths = Object.entries(DEATHS).filter(([, { step }]) => step(subject) !== undefined);

  test.each(deaths)('its control plane dies %s', async (_name, { step, known }) => {
    const target = await subject.prepare();
    const before = (await fleet.events()).length;
    await using victim = await fleet.joinSeverable({ leaseMs: LEASE_MS });
    victim.links.arm(step(subject) as Step);
    const response = subject.act(victim, target).catch(() => undefined);
    await victim.links.severed;
    await until(async () => {
      await expireLeases();
      return isSettled();
    });
    expect([...fleet.agent.builds.templates.keys()].toSorted()).toEqual(await readyTemplates());

    const events = (await fleet.events()).slice(before);
    const own = events.filter(({ kind }) => kind === subject.kind);
    const begun = known === 'completed' || (known === 'settled' && subject.call !== undefined);
    // Each resource has one event, with the outcome.
    const resources = new Set(own.map(({ resource }) => resource));
    expect(own.length).toBe(resources.size);
    expect(resources.size).toBe(!begun ? 0 : subject.kind === 'sandbox.fork' ? 2 : 1);
    for (const { status, metadata } of own) {
      expect(metadata.recovered).toBe(known === 'completed' ? undefined : 'true');
      if (known === 'completed') expect(status).toBe('success');
    }
    await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
    expect(await fleet.miscounted()).toEqual([]);
    expect(await fleet.count('audit_logs')).toBe(
      await fleet.count("outbox where kind <> 'sandbox.state'"),
    );

    // The sandbox can still be used.
    if (target.id !== undefined && (await survivor.get(target.id)).status !== 'stopped') {
      const removed = await survivor.call('DELETE', `/sandboxes/${target.id}`);
      expect(removed.status).toBe(204);
    }
    await response;
  });
});
