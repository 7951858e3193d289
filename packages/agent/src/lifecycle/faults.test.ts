import { SCENARIOS } from '@torpor/testkit/agent';
import { describeFaults } from '@torpor/testkit/fault-suite';
import { vi } from 'vitest';

vi.mock('node:fs/promises', async (original) => {
  const { withPoints } = await import('@torpor/testkit/fault-points');
  return withPoints(await original());
});

describeFaults(SCENARIOS);
