import { afterAll, beforeAll, describe } from 'vitest';
import { describeGit } from './git.ts';
import { guestTarget } from './guest-target.ts';
import type { ConformanceTarget } from './harness.ts';
import { describeProcesses } from './process.ts';
import { describeGuest } from './process-guest.ts';
import { describePty } from './pty.ts';

describe('the processes of a guest', () => {
  let stack: AsyncDisposableStack;
  let target: ConformanceTarget;

  beforeAll(async () => {
    stack = new AsyncDisposableStack();
    target = await guestTarget(stack);
  });

  afterAll(async () => {
    await stack?.disposeAsync();
  });

  describeGuest(() => target);
  describeProcesses(() => target);
  describePty(() => target);
  describeGit(() => target);
});
