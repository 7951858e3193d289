import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ipBatch } from '@torpor/linux';
import {
  CRASHING_POOL,
  listInstanceSlots,
  openTestPool,
  removeInstance,
  testInstance,
} from '@torpor/testkit/agent';
import { expect, test } from 'vitest';

/** Each round kills the agent when it has made this many slots: early, and under load. */
const KILL_AT = [0, 1, 2, 3, 5, 5];

test('an agent killed at any point has all remaining slots in its journal', {
  timeout: 180_000,
}, async () => {
  await using resources = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-crash-'));
  resources.defer(() => rm(directory, { recursive: true }));
  const instance = testInstance();
  const hostNamespace = `tpt-host-${instance}`;
  await ipBatch([`netns add ${hostNamespace}`]);
  resources.defer(() => ipBatch([`netns del ${hostNamespace}`]));
  resources.defer(() =>
    removeInstance({ instance, hostNamespace, stateFile: join(directory, 'network.json') }),
  );

  for (const count of KILL_AT) {
    const args = [CRASHING_POOL, directory, hostNamespace, instance];
    const agent = spawn(process.execPath, args, {
      stdio: ['ignore', 'ignore', 'inherit'],
      detached: true,
    });
    const exited = once(agent, 'exit');
    try {
      const deadline = Date.now() + 30_000;
      while ((await listInstanceSlots({ instance, hostNamespace })).length < count) {
        expect(agent.exitCode).toBeNull();
        expect(Date.now()).toBeLessThan(deadline);
      }
    } finally {
      // Its whole group: a tool that it had started could otherwise finish after the next
      // agent's check.
      if (agent.pid !== undefined) process.kill(-agent.pid, 'SIGKILL');
      await exited;
    }

    const next = await openTestPool({ directory, hostNamespace, instance });
    const owned = next.journal.entries();
    const left = await listInstanceSlots({ instance, hostNamespace });
    const indices = owned.flatMap(({ resource }) =>
      resource.kind === 'network-slot' ? [resource.index] : [],
    );
    expect(indices).toEqual(expect.arrayContaining(left));
    expect(owned.filter(({ owner }) => owner === 'pool')).toEqual([]);
    for (const index of indices) await next.pool.destroySlot(index);
    expect(await listInstanceSlots({ instance, hostNamespace })).toEqual([]);
    await next.crash();
  }
});
