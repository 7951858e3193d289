/** Creates from a name find a build, whatever becomes of the name meanwhile. */
import { errorOf, Fleet } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';

test('creates from a snapshot that is being replaced succeed', async () => {
  await using fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  const members = [await fleet.join(), await fleet.join()] as const;
  const { id } = await members[0].create();
  const replace = () =>
    members[0].call('POST', '/snapshots?overwrite=true', { sandbox_id: id, name: 'warm' });
  expect((await replace()).status).toBe(201);
  let isOver = false;
  const errors: unknown[] = [];
  const creates = [0, 1, 2, 3].map(async (at) => {
    while (!isOver) {
      const response = await members[at % 2 === 0 ? 0 : 1].call('POST', '/sandboxes', {
        template: 'warm',
      });
      if (!response.ok) errors.push(await errorOf(response));
    }
  });
  for (let count = 0; count < 20; count++) expect((await replace()).status).toBe(201);
  isOver = true;
  await Promise.all(creates);
  expect(errors).toEqual([]);
});
