import { startHarness, until } from '@torpor/testkit/control-plane';
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

test('by default they stay listed for days', async () => {
  await using harness = await startHarness({ retention: { intervalMs: 20 } });
  const { id } = await harness.create();
  await harness.request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
  // A few rounds of the sweep.
  await until(async () => (await statesOf(harness)).length === 1);
  for (let round = 0; round < 5; round++) expect(await statesOf(harness)).toEqual(['stopped']);
});
