import { Fleet, recordingLogger } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';
import { openDatabase } from './database.ts';
import { isOlder, removeRows } from './remove-rows.ts';

test('rows are removed in as many batches as it takes, and no others', async () => {
  await using fleet = await Fleet.open();
  const db = await openDatabase(fleet.connection, recordingLogger().logger);
  await fleet.database.query(
    `insert into audit_logs
       (id, team_id, actor_type, resource_type, resource_id, action, status, created_at)
     select 'log' || n, 'tm', 'system', 'sandbox', 'sb', 'create', 'success',
       now() - n * interval '1 minute' from generate_series(0, 24) as n`,
  );
  const isOld = isOlder('created_at', 5 * 60_000);
  expect(await removeRows(db, 'audit_logs', isOld, 5)).toBe(20);
  expect(await removeRows(db, 'audit_logs', isOld, 5)).toBe(0);
  expect(await fleet.count('audit_logs')).toBe(5);
  await db.destroy();
});
