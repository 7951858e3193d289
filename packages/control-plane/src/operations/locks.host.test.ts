import { setTimeout as delay } from 'node:timers/promises';
import { FORWARDING_TRACER } from '@torpor/protocol';
import { Fleet, recordingLogger, until } from '@torpor/testkit/control-plane';
import type { Kysely } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SYSTEM } from '../auth/principal.ts';
import { openDatabase } from '../database/database.ts';
import type { Database } from '../database/schema.ts';
import { Metrics } from '../observability/metrics.ts';
import { OperationLocks } from './locks.ts';
import { OperationRunner } from './runner.ts';

const INTENT = { kind: 'sandbox.pause', teamId: 'tm', actor: SYSTEM } as const;

let fleet: Fleet;
const databases: Kysely<Database>[] = [];
let processes: readonly [OperationLocks, OperationLocks];

async function open() {
  const { logger } = recordingLogger();
  const db = await openDatabase(fleet.connection, logger);
  databases.push(db);
  return { db, logger };
}

async function openLocks(leaseMs?: number): Promise<OperationLocks> {
  return new OperationLocks({ ...(await open()), leaseMs });
}

beforeAll(async () => {
  fleet = await Fleet.open();
  processes = [await openLocks(), await openLocks()];
});
afterAll(async () => {
  await Promise.all(databases.map((db) => db.destroy()));
  await fleet[Symbol.asyncDispose]();
});

test('within one process locks are granted in order of request', async () => {
  const [locks] = processes;
  const order: number[] = [];
  const asked = Array.from({ length: 20 }, (_, index) =>
    locks.run(index % 3 === 0 ? ['a', 'b'] : ['a'], INTENT, async () => {
      await delay(Math.random() * 5);
      order.push(index);
      if (index === 7) throw new Error('failed');
    }),
  );
  const results = await Promise.allSettled(asked);
  expect(results.filter(({ status }) => status === 'rejected')).toHaveLength(1);
  expect(order).toEqual(order.toSorted((a, b) => a - b));
  expect(locks.isBusyHere('a')).toBe(false);
  expect(await fleet.count('operations')).toBe(0);
});

test('across processes a resource has one holder, and requests for several do not deadlock', async () => {
  const holders = new Map<string, number>();
  let most = 0;
  const asked = Array.from({ length: 60 }, (_, index) => {
    const resources = [['a', 'b'], ['b', 'c'], ['c', 'a'], ['a']][index % 4] as string[];
    return processes[(index % 2) as 0 | 1].run(resources, INTENT, async () => {
      for (const one of resources) {
        holders.set(one, (holders.get(one) ?? 0) + 1);
        most = Math.max(most, holders.get(one) ?? 0);
      }
      await delay(1);
      for (const one of resources) holders.set(one, (holders.get(one) ?? 0) - 1);
    });
  });
  await Promise.all(asked);
  expect(most).toBe(1);
  expect(await fleet.count('operations')).toBe(0);
});

test('tryRun does not get a lock that is held', async () => {
  const [first, second] = processes;
  await first.run(['a'], INTENT, async () => {
    expect(await first.tryRun('a', INTENT, async () => 'here')).toBeUndefined();
    expect(await second.tryRun('a', INTENT, async () => 'there')).toBeUndefined();
  });
  expect(await second.tryRun('a', INTENT, async () => 'there')).toBe('there');
});

test('a lease that has expired is not revived by the renewal of others', async () => {
  const locks = await openLocks(1_500);
  const expiries = async () => {
    const { rows } = await fleet.database.query(
      'select resource, expires_at from operations order by resource',
    );
    return rows.map(({ expires_at }) => Number(expires_at));
  };
  await locks.run(['given-back'], INTENT, () =>
    locks.run(['held'], INTENT, async () => {
      await fleet.database.query(
        `update operations set expires_at = now() where resource = 'given-back'`,
      );
      const before = await expiries();
      await until(async () => Number((await expiries())[1]) > Number(before[1]));
      expect((await expiries())[0]).toBe(before[0]);
    }),
  );
});

test('an abandoned operation is settled as what it is, and not again once another has settled it', async () => {
  const { db, logger } = await open();
  const locks = new OperationLocks({ db, logger });
  const metrics = new Metrics({ countByState: async () => new Map() });
  const runner = new OperationRunner({
    tracer: FORWARDING_TRACER,
    db,
    locks,
    metrics,
    logger,
    onEvents: () => undefined,
  });
  const settled: string[] = [];
  runner.registerRecovery('abandoned', async ({ intent }) => {
    settled.push(intent.kind);
    return async () => [];
  });
  await locks.run(['abandoned'], INTENT, async (held) => {
    held.state = 'unfinished';
  });
  const [lease] = await locks.abandoned();
  if (lease === undefined) throw new Error('no lease');
  // As if each had read the lease before either was run.
  await Promise.all([runner.recoverLease(lease), runner.recoverLease(lease)]);
  await runner.recoverLease(lease);
  expect(settled).toEqual(['sandbox.pause']);
  expect(await fleet.count('operations')).toBe(0);
  await metrics.close();
});
