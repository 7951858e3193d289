import { Fleet, startHarness, until } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';

async function statesOf(harness: Awaited<ReturnType<typeof startHarness>>): Promise<string[]> {
  const response = await harness.request('/v1/sandboxes?state=running,stopped');
  const { sandboxes } = (await response.json()) as { sandboxes: { status: string }[] };
  return sandboxes.map(({ status }) => status).toSorted();
}

test('rows of destroyed sandboxes are removed after the retention period, others stay', async () => {
  await using harness = await startHarness({ retention: { keepStoppedMs: 0, intervalMs: 20 } });
  await harness.create();
  const { id } = await harness.create();
  await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
  await until(async () => (await harness.request(`/v1/sandboxes/${id}`)).status === 404);
  expect(await statesOf(harness)).toEqual(['running']);
});

test('entries of the audit log and deliveries of webhooks are removed after their own periods', async () => {
  await using fleet = await Fleet.open();
  const member = await fleet.join({ retention: { keepAuditMs: 60_000, intervalMs: 20 } });
  const hook = { name: 'hook', url: 'http://10.0.0.1/', event_types: ['sandbox.create'] };
  await fleet
    .join({ webhookNetworks: ['10.0.0.0/8'] })
    .then(({ call }) => call('POST', '/webhooks', hook));
  await member.create();
  const left = async () => [
    await fleet.count('audit_logs'),
    await fleet.count('webhook_deliveries'),
    await fleet.count('outbox'),
  ];
  // The webhook and the sandbox, whose state is an event too.
  await until(async () => (await left()).join() === '2,1,3');
  for (let round = 0; round < 5; round++) expect(await left()).toEqual([2, 1, 3]);
  await fleet.database.query(`update audit_logs set created_at = now() - interval '61 s'`);
  await until(async () => (await left()).join() === '0,1,3');
  await fleet.database.query(
    `update webhook_deliveries set state = 'dead', finished_at = now() - interval '169 h'`,
  );
  await fleet.database.query(`update outbox set delivered_at = now() - interval '169 h'`);
  await until(async () => (await left()).join() === '0,0,0');
});

test('by default they stay listed for days', async () => {
  await using harness = await startHarness({ retention: { intervalMs: 20 } });
  const { id } = await harness.create();
  await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
  // A few rounds of the sweep.
  await until(async () => (await statesOf(harness)).length === 1);
  for (let round = 0; round < 5; round++) expect(await statesOf(harness)).toEqual(['stopped']);
});
