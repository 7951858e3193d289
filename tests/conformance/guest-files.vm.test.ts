import { afterAll, beforeAll, describe } from 'vitest';
import { describeFiles } from './files.ts';
import { guestTarget } from './guest-target.ts';
import type { ConformanceTarget } from './harness.ts';
import { describeSignedUrls } from './signed-urls.ts';
import { describeWatch } from './watch.ts';

describe('the files of a guest', () => {
  let stack: AsyncDisposableStack;
  let target: ConformanceTarget;

  beforeAll(async () => {
    stack = new AsyncDisposableStack();
    target = await guestTarget(stack);
  });

  afterAll(async () => {
    await stack?.disposeAsync();
  });

  describeFiles(() => target);
  describeWatch(() => target);
  describeSignedUrls(() => target);
});
