/**
 * Two control planes and three hosts; one control plane, a process, is killed at every step of
 * every operation. Nothing is lost or made twice, and audit log, usage and webhooks are exact.
 *
 * By default one step of each operation is taken at random, and the end of it. `TORPOR_FLEET_POINTS=all` takes
 * all of them, and `TORPOR_FLEET_SEED` the same ones again.
 */
import { randomBytes } from 'node:crypto';
import { Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type CrashPoint, DoomedControlPlane } from './doomed-control-plane.ts';
import {
  disagreements,
  inexactAudit,
  inexactUsage,
  undelivered,
  unrecordedChanges,
} from './invariants.ts';
import { MemoryHosts } from './memory-hosts.ts';
import { type Call, createdIds, OPERATIONS, type Operation, type Target } from './operations.ts';
import { PostgresServer } from './postgres.ts';
import { Receiver } from './receiver.ts';

const POINTS = process.env.TORPOR_FLEET_POINTS ?? '1';
const SEED = Number(process.env.TORPOR_FLEET_SEED ?? Date.now() % 1_000_000);
const HOSTS = 3;
const CAMPAIGN_TIMEOUT_MS = 3_600_000;
const SETTLE_TIMEOUT_MS = 60_000;
/** A busy machine must not make hosts silent. */
const LONG_MS = 600_000;
const NETWORKS = '127.0.0.0/8';

const resources = new AsyncDisposableStack();
let database: PostgresServer;
let fleet: Fleet;
let survivor: Member;
let hosts: MemoryHosts;
let receiver: Receiver;
const secretKey = randomBytes(32).toString('base64');

beforeAll(async () => {
  database = resources.use(await PostgresServer.start());
  fleet = resources.use(await Fleet.open(database.connection));
  receiver = resources.use(await Receiver.open());
  survivor = await fleet.joinAlone({
    secretKey,
    webhookNetworks: [NETWORKS],
    webhookTiming: { pollIntervalMs: 20 },
    hostTiming: { silenceMs: LONG_MS, followMs: 50 },
    reconcilerTiming: { recoveryIntervalMs: 50, unreachableAfterMs: LONG_MS, listIntervalMs: 500 },
  });
  hosts = resources.use(await MemoryHosts.join(survivor, HOSTS));
  const hook = { name: 'all', url: receiver.url, event_types: ['sandbox.*'] };
  expect((await survivor.call('POST', '/webhooks', hook)).status).toBe(201);
});
afterAll(async () => {
  const unused = await spare?.catch(() => undefined);
  await unused?.[Symbol.asyncDispose]();
  await resources.disposeAsync();
});

/** The next one, which starts meanwhile. */
let spare: Promise<DoomedControlPlane> | undefined;

async function nextDoomed(): Promise<DoomedControlPlane> {
  const next = await (spare ?? startDoomed());
  spare = startDoomed();
  spare.catch(() => undefined);
  return next;
}

/** A control plane that knows all hosts. */
async function startDoomed(): Promise<DoomedControlPlane> {
  await using stack = new AsyncDisposableStack();
  const doomed = stack.use(
    await DoomedControlPlane.start({
      database: database.socketDirectory,
      env: {
        TORPOR_SECRET_KEY: secretKey,
        TORPOR_WEBHOOK_NETWORKS: NETWORKS,
        TORPOR_LOG_LEVEL: 'error',
      },
    }),
  );
  await hosts.untilKnownTo(callTo(doomed.url));
  stack.move();
  return doomed;
}

function callTo(url: string): Call {
  return (method, path, body, headers = {}) =>
    fetch(`${url}/v1${path}`, {
      method,
      headers: { 'x-api-key': survivor.controlPlane.apiKey, ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
}

/** Has an operation done by a control plane that dies at the point, or after it; returns its steps. */
async function die(operation: Operation, point?: CrashPoint): Promise<readonly string[]> {
  await using doomed = await nextDoomed();
  await hosts.takeTurns();
  const target = await operation.prepare(survivor, () => hosts.takeTurns());
  const earlier = new Set(sandboxesOnHosts());
  const request = operation.request(target);
  hosts.doomed = doomed;
  doomed.arm(point);
  const response = await request(callTo(doomed.url)).catch(() => undefined);
  if (response !== undefined) await until(isDelivered);
  doomed.kill();
  await doomed.killed;
  hosts.doomed = undefined;
  await settle(doomed);
  await fleet.database.query(
    'update idempotency_keys set expires_at = now() where response is null',
  );
  const again = operation.isRepeated ? await request(callTo(survivor.controlPlane.url)) : response;
  await settle(doomed);
  await hosts.admitLateCalls();
  await settle(doomed);
  await expectWhatWasSaid(again, earlier, operation);
  await expectExact();
  await removeAll(target);
  return doomed.steps;
}

/** Waits until nothing is in progress, and the leases of what has died do as if their time had passed. */
async function settle({ holderPrefix }: DoomedControlPlane): Promise<void> {
  await until(async () => {
    // Again and again: a statement that it had sent may be executed late.
    await fleet.database.query('update operations set expires_at = now() where holder like $1', [
      `${holderPrefix}%`,
    ]);
    return (await differences()).length === 0;
  }, SETTLE_TIMEOUT_MS).catch(async (error) => {
    throw new Error((await differences()).join('; '), { cause: error });
  });
  await fleet.database.query(
    `update idempotency_keys set expires_at = now() where response is null`,
  );
}

function sandboxesOnHosts(): string[] {
  return hosts.hosts.flatMap(({ agent }) => [...agent.sandboxes.keys()]);
}

/** A response that says that something was created is true, and one that is repeated has made nothing else. */
async function expectWhatWasSaid(
  response: Response | undefined,
  earlier: ReadonlySet<string>,
  { isRepeated }: Operation,
): Promise<void> {
  const made = sandboxesOnHosts().filter((id) => !earlier.has(id));
  const told = response?.status === 201 ? await createdIds(response) : [];
  if (response?.status === 201 || isRepeated) expect(made.toSorted()).toEqual(told.toSorted());
}

async function isDelivered(): Promise<boolean> {
  return (await fleet.count('outbox where delivered_at is null')) === 0;
}

/** What is in progress, the locks that are held, and how rows and hosts disagree. */
async function differences(): Promise<string[]> {
  const found: string[] = [];
  if ((await fleet.count('operations')) > 0) found.push('locks are held');
  if (!(await isDelivered())) found.push('events are not delivered');
  const { rows } = await fleet.database.query('select id, state from templates order by id');
  const kept = hosts.hosts.flatMap(({ agent }) => [...agent.builds.templates.keys()]);
  if (rows.some(({ state }) => state !== 'ready')) found.push('snapshots are not settled');
  if (rows.map(({ id }) => id).join() !== [...new Set(kept)].toSorted().join()) {
    found.push('snapshots differ');
  }
  const known = hosts.hosts.map(
    ({ id, agent }) =>
      [id, new Map([...agent.sandboxes].map(([key, { status }]) => [key, status]))] as const,
  );
  return [...found, ...(await disagreements(fleet.database, new Map(known)))];
}

async function expectExact(): Promise<void> {
  const { database: client } = fleet;
  expect(await differences()).toEqual([]);
  expect(await inexactAudit(client), 'audit log').toEqual([]);
  expect(await unrecordedChanges(client), 'events').toEqual([]);
  expect(await inexactUsage(client), 'usage').toEqual([]);
}

/** Everything can still be used: it is destroyed. */
async function removeAll({ name }: Target): Promise<void> {
  const { rows } = await fleet.database.query(`select id from sandboxes where state <> 'stopped'`);
  for (const { id } of rows) {
    expect((await survivor.call('DELETE', `/sandboxes/${id}`)).status, id).toBe(204);
  }
  if (name !== undefined) await survivor.call('DELETE', `/snapshots/${name}`);
  expect(sandboxesOnHosts()).toEqual([]);
}

/**
 * Steps before which nothing has changed since the last one, and those of what every control
 * plane does beside.
 */
const NO_POINT = /^(?:begin|select|with|rollback)|hosts|webhook/;

function pointsOf(steps: readonly string[]): CrashPoint[] {
  const seen = new Map<string, number>();
  return steps.flatMap((name) => {
    const occurrence = (seen.get(name) ?? 0) + 1;
    seen.set(name, occurrence);
    return NO_POINT.test(name) ? [] : [{ name, occurrence }];
  });
}

/** Mulberry32, which the seed determines. */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

function sample<T>(all: readonly T[], random: () => number): T[] {
  if (POINTS === 'all') return [...all];
  const left = [...all];
  return Array.from({ length: Math.min(Number(POINTS), all.length) }, () =>
    left.splice(Math.floor(random() * left.length), 1),
  ).flat();
}

const random = randomNumbers(SEED);

test.each(Object.keys(OPERATIONS))(
  '%s: a control plane dies at its steps',
  async (name) => {
    const operation = OPERATIONS[name] as Operation;
    const points = pointsOf(await die(operation));
    const failures: string[] = [];
    let reached = 0;
    receiver.isDown = !receiver.isDown;
    for (const point of sample(points, random)) {
      try {
        const steps = await die(operation, point);
        if (steps.filter((step) => step === point.name).length >= point.occurrence) reached++;
      } catch (error) {
        failures.push(`${point.name} #${point.occurrence}: ${error}`);
        break;
      }
    }
    if (POINTS === 'all') process.stderr.write(`${name}: ${reached} of ${points.length} steps\n`);
    expect(failures, `TORPOR_FLEET_SEED=${SEED}`).toEqual([]);
  },
  CAMPAIGN_TIMEOUT_MS,
);

test(
  'the receiver of webhooks, which was down at times, got every event in the order of its sandbox',
  async () => {
    receiver.isDown = false;
    await until(async () => {
      // What the dead ones were sending.
      await fleet.database.query(
        `update webhook_deliveries set next_attempt_at = now()
       where state = 'pending' and next_attempt_at > now() + interval '1 second'`,
      );
      return (await undelivered(fleet.database, receiver)).length === 0;
    }, SETTLE_TIMEOUT_MS).catch(() => undefined);
    expect(await undelivered(fleet.database, receiver)).toEqual([]);
  },
  CAMPAIGN_TIMEOUT_MS,
);
