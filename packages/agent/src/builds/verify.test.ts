import { World } from '@torpor/testkit/agent';
import { expect, test } from 'vitest';
import { verifyBuilds } from './verify.ts';

test('a report says that a build is a kept boot, and not a template of a user', async () => {
  await using world = await World.open(undefined, true);
  await world.createSource();
  const [report] = await Array.fromAsync(verifyBuilds(world.registry.host));
  expect(report?.references).toEqual(
    expect.arrayContaining([expect.stringMatching(/^kept-boot [0-9a-f]+$/)]),
  );
  expect(report?.references.join()).not.toContain('template');
});
