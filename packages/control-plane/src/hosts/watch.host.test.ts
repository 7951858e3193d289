import { Fleet, until } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';

test('sandboxes of a host that is away are missing, also if the database failed at first', async () => {
  await using fleet = await Fleet.open();
  const member = await fleet.join({
    reconcilerTiming: { missingAfterMs: 100, reconnectMs: 20, listIntervalMs: 60_000 },
  });
  const { id } = await member.create();
  await fleet.database.query('alter table sandboxes rename to unavailable');
  fleet.agent.goAway();
  await until(() => fleet.log().includes('A step of reconciling failed'));
  await fleet.database.query('alter table unavailable rename to sandboxes');
  await until(async () => (await member.get(id)).status === 'missing');
  fleet.agent.comeBack();
  await until(async () => (await member.get(id)).status === 'running');
  expect((await member.get(id)).reason).toBeUndefined();
});
