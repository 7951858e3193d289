import { SCENARIOS, type Scenario } from '@torpor/testkit/agent';
import { describeFaults } from '@torpor/testkit/fault-suite';
import { vi } from 'vitest';

vi.mock('node:fs/promises', async (original) => {
  const { withPoints } = await import('@torpor/testkit/fault-points');
  return withPoints(await original());
});

/** The same for a VMM that writes RAM out with each snapshot, all of it or the changes. */
const WITH_SNAPSHOTS = SCENARIOS.map(
  (scenario): Scenario => ({
    ...scenario,
    name: `${scenario.name}, by snapshots of its memory`,
    prepare: (world) => {
      world.host.driver.takesSnapshots = true;
      return scenario.prepare(world);
    },
  }),
);

describeFaults(WITH_SNAPSHOTS);
