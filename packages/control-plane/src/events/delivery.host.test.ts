import { newId } from '@torpor/protocol';
import { Fleet, recordingLogger, until } from '@torpor/testkit/control-plane';
import type { Kysely } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SYSTEM } from '../auth/principal.ts';
import { openDatabase } from '../database/database.ts';
import type { Database } from '../database/schema.ts';
import { recordInAuditLog } from './audit.ts';
import { type EventConsumer, OutboxDelivery } from './delivery.ts';
import { appendEvents } from './outbox.ts';

let fleet: Fleet;
let db: Kysely<Database>;
const { logger, text } = recordingLogger();

beforeAll(async () => {
  fleet = await Fleet.open();
  db = await openDatabase(fleet.connection, recordingLogger().logger);
});
afterAll(async () => {
  await db.destroy();
  await fleet[Symbol.asyncDispose]();
});

const resource = () => newId('sandbox');
function deliver(...consumers: EventConsumer[]): OutboxDelivery {
  const delivery = new OutboxDelivery({ db, consumers, logger });
  delivery.start();
  return delivery;
}
const audited = (id: string) => fleet.count(`audit_logs where resource_id = '${id}'`);

async function append(...resources: string[]): Promise<void> {
  await db.transaction().execute((transaction) =>
    appendEvents(
      transaction,
      resources.map((id) => ({
        kind: 'sandbox.pause',
        resource: id,
        teamId: 'tm',
        actor: SYSTEM,
        status: 'error',
        metadata: { code: 'disk_full' },
      })),
    ),
  );
}

test('an event becomes an entry of the audit log, with the time at which it happened', async () => {
  const id = resource();
  await append(id);
  await using _ = deliver(recordInAuditLog);
  await until(async () => (await audited(id)) === 1);
  const { rows } = await fleet.database.query(
    `select a.*, o.created_at as happened_at from audit_logs a join outbox o on o.id = a.outbox_id
     where a.resource_id = $1`,
    [id],
  );
  expect(rows[0]).toMatchObject({
    team_id: 'tm',
    actor_type: 'system',
    actor_id: null,
    resource_type: 'sandbox',
    action: 'pause',
    status: 'error',
    metadata: { code: 'disk_full' },
    created_at: rows[0].happened_at,
  });
});

test('the events of a transaction that is rolled back are never delivered', async () => {
  const id = resource();
  await expect(
    db.transaction().execute(async (transaction) => {
      const event = { kind: 'sandbox.pause', teamId: 'tm', actor: SYSTEM } as const;
      await appendEvents(transaction, [{ ...event, resource: id, status: 'success' }]);
      throw new Error('rolled back');
    }),
  ).rejects.toThrow('rolled back');
  expect(await fleet.count(`outbox where resource = '${id}'`)).toBe(0);
});

test('a consumer that fails gets its events again, and the others record nothing twice', async () => {
  const id = resource();
  let failures = 1;
  await using delivery = deliver(recordInAuditLog, async () => {
    if (failures-- > 0) throw new Error('not now');
  });
  await append(id);
  delivery.wake();
  await until(() => text().includes('Could not deliver events'));
  expect(await audited(id)).toBe(0);
  await until(async () => (await audited(id)) === 1);
});

test('an event that is delivered twice has one entry', async () => {
  const id = resource();
  await append(id);
  await using delivery = deliver(recordInAuditLog);
  await until(async () => (await audited(id)) === 1);
  await fleet.database.query('update outbox set delivered_at = null where resource = $1', [id]);
  delivery.wake();
  await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
  expect(await audited(id)).toBe(1);
});

test('several control planes deliver concurrently, and each event once', async () => {
  const ids = Array.from({ length: 500 }, resource);
  const delivered: string[] = [];
  const collect: EventConsumer = async (_, events) => {
    delivered.push(...events.map((event) => event.resource));
  };
  await append(...ids);
  {
    await using _first = deliver(collect);
    await using _second = deliver(collect);
    await using _third = deliver(collect);
    await until(() => delivered.length >= ids.length);
  }
  expect(delivered.toSorted()).toEqual(ids.toSorted());
});
