import { logRequestIds, newId, runAsRequest } from '@torpor/protocol';
import { request as plainRequest, StubHost, type StubVm } from '@torpor/testkit/agent';
import { recordingLogger } from '@torpor/testkit/control-plane';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readRecord, type SandboxRecord } from '../registry/record.ts';
import { SandboxRegistry } from '../registry/registry.ts';
import { createSandbox } from './create.ts';
import type { CreateRequest } from './create-request.ts';
import { destroyAll, destroySandbox } from './destroy.ts';
import { reapIdle } from './reap.ts';

let host: StubHost;

beforeEach(async () => {
  host = await StubHost.open();
});
afterEach(() => host[Symbol.asyncDispose]());

function request(changes: Partial<CreateRequest> = {}): CreateRequest {
  return plainRequest({
    teamId: 'team',
    defaultUser: 'user',
    defaultEnv: { A: '1', B: '1' },
    envs: { B: '2' },
    ...changes,
  });
}

/** The states that a watcher sees, by sandbox. */
function follow(registry: SandboxRegistry): { states: Map<string, string[]>; stop: () => void } {
  const states = new Map<string, string[]>();
  const end = new AbortController();
  void (async () => {
    for await (const event of registry.watch(60_000, end.signal)) {
      if (event.kind !== 'item') continue;
      const { id, state } = event.item;
      states.set(id, [...(states.get(id) ?? []), state]);
    }
  })();
  return { states, stop: () => end.abort() };
}

async function stateOf(
  registry: SandboxRegistry,
  id: string,
  state: string,
): Promise<SandboxRecord> {
  return await expect
    .poll(() => registry.get(id), { timeout: 10_000, interval: 5 })
    .toMatchObject({ state })
    .then(() => registry.get(id));
}

async function onDisk(id: string): Promise<string | undefined> {
  return (await readRecord(host.layout.recordFile(id)))?.state;
}

test('the exit of a VMM is not logged as a part of the request that started it', async () => {
  const { logger, text } = recordingLogger();
  const parts = host.parts({ logger: logRequestIds(logger) });
  const registry = host.manage(new SandboxRegistry(parts));
  const vms: StubVm[] = [];
  host.driver.afterStart = (vm) => vms.push(vm);
  const { record } = await runAsRequest('the-create', () => createSandbox(registry, request()));
  vms[0]?.die();
  await stateOf(registry, record.id, 'error');
  const line = text()
    .split('\n')
    .find((each) => each.includes('"VMM exited"'));
  expect(line).toContain(record.id);
  expect(line).not.toContain('the-create');
});

describe('creating and destroying', () => {
  test('a sandbox starts, gets its identity, and leaves nothing when destroyed', async () => {
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const watcher = follow(registry);
    const { record, timings } = await createSandbox(registry, request());
    expect(record).toMatchObject({
      state: 'running',
      slot: { hostAddress: '10.0.0.1' },
      metadata: { envd_version: '0.6.4', kernel_version: '6.12', vmm: 'qemu' },
    });
    expect(timings.map(({ phase }) => phase)).toEqual([
      'queue',
      'network',
      'disk',
      'vmm',
      'boot',
      'init',
      'total',
    ]);
    expect(host.guests.inits).toEqual([
      expect.objectContaining({
        envVars: { A: '1', B: '2' },
        defaultUser: 'user',
        hostname: record.id,
        machineId: expect.stringMatching(/^[0-9a-f]{32}$/),
        accessToken: expect.stringMatching(/^[0-9a-f]{64}$/),
        nameservers: ['192.0.2.53'],
      }),
    ]);
    expect(await onDisk(record.id)).toBe('running');
    await destroySandbox(registry, record.id);
    await destroySandbox(registry, record.id);
    expect(() => registry.get(record.id)).toThrowError(
      expect.objectContaining({ code: 'not_found' }),
    );
    expect(await host.leftovers()).toEqual([]);
    expect(watcher.states.get(record.id)).toEqual(['creating', 'running', 'destroying', 'stopped']);
    watcher.stop();
  });

  test('a state is on disk before the operation proceeds', async () => {
    const seen: (string | undefined)[] = [];
    host.driver.beforeStart = async ({ id }) => void seen.push(await onDisk(id));
    host.driver.beforeKill = async (vm) => void seen.push(await onDisk(vm.description.spec.id));
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const { record } = await createSandbox(registry, request());
    await destroySandbox(registry, record.id);
    expect(seen).toEqual(['creating', 'destroying']);
  });

  test.each<[string, () => void, string, RegExp]>([
    ['the slot', () => (host.slots.beforeAcquire = failing), 'internal_error', /broken/],
    ['the disk', () => (host.beforeDisk = failing), 'internal_error', /broken/],
    ['the VMM', () => (host.driver.beforeStart = failing), 'internal_error', /broken/],
    [
      'the boot, because the VMM exits',
      () => {
        host.guests.healthy = false;
        host.driver.afterStart = (vm: StubVm) => vm.die();
      },
      'vmm_failed',
      /terminated by SIGKILL.*no such device/s,
    ],
    ['/init', () => (host.guests.initStatus = 500), 'init_failed', /500/],
  ])('when %s fails, the error says so and nothing is left', async (_, arrange, code, message) => {
    arrange();
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const watcher = follow(registry);
    const create = request();
    await expect(createSandbox(registry, create)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
    expect(registry.list()).toEqual([]);
    expect(await host.leftovers()).toEqual([]);
    expect(watcher.states.get(create.id)).toEqual(['creating', 'error']);
    watcher.stop();
  });

  test('a guest that does not respond in time fails the creation, with its last lines', async () => {
    host.guests.healthy = false;
    const registry = host.manage(new SandboxRegistry(host.parts({ guestTimeoutMs: 100 })));
    await expect(createSandbox(registry, request())).rejects.toMatchObject({
      code: 'guest_unreachable',
      message: expect.stringMatching(/within 0.1 s.*no such device/s),
      remedy: expect.stringContaining('--guest-timeout'),
    });
    expect(await host.leftovers()).toEqual([]);
  });

  test('one that cannot be undone either stays in state error until it can', async () => {
    host.guests.initStatus = 500;
    host.slots.beforeRelease = failing;
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const create = request();
    await expect(createSandbox(registry, create)).rejects.toMatchObject({
      message: expect.stringMatching(/500/),
    });
    expect(registry.get(create.id)).toMatchObject({
      state: 'error',
      reason: expect.stringMatching(/500.*could not be taken down/s),
    });
    expect(host.driver.living()).toEqual([]);
    host.slots.beforeRelease = () => undefined;
    await destroySandbox(registry, create.id);
    expect(await host.leftovers()).toEqual([]);
  });

  test('an unknown image is refused', async () => {
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const create = request({ templateId: 'nope' });
    await expect(createSandbox(registry, create)).rejects.toMatchObject({ code: 'not_found' });
    expect(await host.leftovers()).toEqual([]);
  });

  test('of two creations with one id, one succeeds and the other has no effect', async () => {
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const create = request();
    const results = await Promise.allSettled([
      createSandbox(registry, create),
      createSandbox(registry, create),
    ]);
    expect(results.map((result) => result.status)).toEqual(['fulfilled', 'rejected']);
    expect(results[1]).toMatchObject({ reason: { code: 'already_exists' } });
    await expect(createSandbox(registry, create)).rejects.toMatchObject({ code: 'already_exists' });
    expect(registry.get(create.id)).toMatchObject({ state: 'running' });
    expect(host.slots.leased.size).toBe(1);
  });

  test('destroying a sandbox that is being created cancels it', async () => {
    host.guests.healthy = false;
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const create = request();
    const creation = createSandbox(registry, create);
    const { promise: started, resolve } = Promise.withResolvers<void>();
    host.driver.afterStart = () => resolve();
    await started;
    const results = await Promise.allSettled([creation, destroySandbox(registry, create.id)]);
    expect(results).toMatchObject([
      { status: 'rejected', reason: { code: 'conflict' } },
      { status: 'fulfilled' },
    ]);
    expect(await host.leftovers()).toEqual([]);
  });

  test('one that waits to boot can be destroyed', async () => {
    host.guests.healthy = false;
    const registry = host.manage(new SandboxRegistry(host.parts({ concurrentBoots: 1 })));
    const [first, second] = [request(), request()];
    const creations = [createSandbox(registry, first), createSandbox(registry, second)];
    const outcomes = Promise.allSettled(creations);
    const { promise: started, resolve } = Promise.withResolvers<void>();
    host.driver.afterStart = () => resolve();
    await started;
    expect(host.slots.leased.size).toBe(1);
    const destroyed = destroySandbox(registry, second.id);
    host.guests.healthy = true;
    await destroyed;
    expect(await outcomes).toMatchObject([
      { status: 'fulfilled' },
      { status: 'rejected', reason: { code: 'conflict' } },
    ]);
    await destroySandbox(registry, first.id);
    expect(await host.leftovers()).toEqual([]);
  });

  test('a failed release is retried, and reported if it fails again', async () => {
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const { record } = await createSandbox(registry, request());
    host.slots.beforeRelease = failing;
    await expect(destroySandbox(registry, record.id)).rejects.toMatchObject({
      code: 'internal_error',
    });
    expect(registry.get(record.id)).toMatchObject({ state: 'error' });
    expect(host.driver.living()).toEqual([]);
    host.slots.beforeRelease = () => undefined;
    await destroySandbox(registry, record.id);
    expect(await host.leftovers()).toEqual([]);
  });
});

describe('the exit of a VMM', () => {
  test('is reported with the reason, releases everything, and affects no other sandbox', async () => {
    const vms: StubVm[] = [];
    host.driver.afterStart = (vm) => vms.push(vm);
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const [victim, other] = await Promise.all([
      createSandbox(registry, request()),
      createSandbox(registry, request()),
    ]);
    const { id } = victim.record;
    vms.find((vm) => vm.description.spec.id === id)?.die();
    const record = await stateOf(registry, id, 'error');
    expect(record.reason).toMatch(/terminated by SIGKILL.*no such device/s);
    expect(await onDisk(id)).toBe('error');
    await expect.poll(() => host.slots.leased.size, { timeout: 10_000 }).toBe(1);
    await expect(registry.use(id)).rejects.toMatchObject({
      code: 'invalid_state',
      message: expect.stringMatching(/SIGKILL/),
    });
    expect(registry.get(other.record.id)).toMatchObject({ state: 'running' });
    expect(host.driver.living()).toHaveLength(1);
    await destroySandbox(registry, id);
    await destroySandbox(registry, other.record.id);
    expect(await host.leftovers()).toEqual([]);
  });

  test('while it is being destroyed is the requested one', async () => {
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const { record } = await createSandbox(registry, request());
    host.driver.beforeKill = (vm) => vm.die();
    const watcher = follow(registry);
    await destroySandbox(registry, record.id);
    await expect
      .poll(() => watcher.states.get(record.id))
      .toEqual(['running', 'destroying', 'stopped']);
    expect(await host.leftovers()).toEqual([]);
    watcher.stop();
  });
});

describe('the time to live', () => {
  test('destroys an unused sandbox, and no other', async () => {
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const { record: mortal } = await createSandbox(registry, request({ timeoutSec: 10 }));
    const { record: immortal } = await createSandbox(registry, request());
    host.clock = 9_999;
    await reapIdle(registry);
    expect(registry.list()).toHaveLength(2);
    registry.touch(mortal.id);
    host.clock = 19_998;
    await reapIdle(registry);
    expect(registry.list()).toHaveLength(2);
    host.clock = 19_999;
    await reapIdle(registry);
    expect(registry.list().map(({ id }) => id)).toEqual([immortal.id]);
  });

  test('does not run while a stream is open', async () => {
    const registry = host.manage(new SandboxRegistry(host.parts()));
    const { record } = await createSandbox(registry, request({ timeoutSec: 10 }));
    const lease = await registry.use(record.id);
    host.clock = 100_000;
    await reapIdle(registry);
    expect(registry.get(record.id)).toMatchObject({ state: 'running' });
    lease[Symbol.dispose]();
    host.clock += 10_000;
    await reapIdle(registry);
    expect(registry.list()).toEqual([]);
  });
});

test('an agent that stops detaches from its machines, and does nothing more', async () => {
  const vms: StubVm[] = [];
  host.driver.afterStart = (vm) => vms.push(vm);
  const registry = host.manage(new SandboxRegistry(host.parts()));
  const { record } = await createSandbox(registry, request());
  await registry.close();
  expect(vms.map((vm) => vm.detached)).toEqual([true]);
  expect(host.driver.living()).toHaveLength(1);
  expect(await readRecord(host.layout.recordFile(record.id))).toEqual({
    ...record,
    lastActiveAt: expect.any(Number),
  });
  await expect(createSandbox(registry, request())).rejects.toMatchObject({
    code: 'host_unavailable',
  });
  await expect(registry.use(record.id)).rejects.toMatchObject({ code: 'host_unavailable' });
});

test('with any operations at the same time, no slot is released twice and nothing is left', async () => {
  const ids = Array.from({ length: 3 }, () => newId('sandbox'));
  const step = fc.record({
    action: fc.constantFrom('create', 'create', 'destroy', 'die', 'idle'),
    id: fc.constantFrom(...ids),
    pause: fc.nat(3),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 14 }), async (steps) => {
      const vms = new Map<string, StubVm>();
      host.driver.afterStart = (vm) => void vms.set(vm.description.spec.id, vm);
      const registry = host.manage(new SandboxRegistry(host.parts()));
      const errors: { code?: string }[] = [];
      const running: Promise<unknown>[] = [];
      const run = (operation: Promise<unknown>) =>
        running.push(operation.catch((error) => errors.push(error)));
      for (const { action, id, pause } of steps) {
        if (action === 'create') run(createSandbox(registry, request({ id, timeoutSec: 1 })));
        if (action === 'destroy') run(destroySandbox(registry, id));
        if (action === 'die') vms.get(id)?.die();
        if (action === 'idle') {
          host.clock += 2_000;
          run(reapIdle(registry));
        }
        for (let turn = 0; turn < pause * 20; turn++) await new Promise(setImmediate);
      }
      await Promise.all(running);
      const allowed = ['already_exists', 'conflict', 'vmm_failed'];
      for (const { code } of errors) expect(allowed).toContain(code);
      await destroyAll(registry);
      await registry.close();
      expect(await host.leftovers()).toEqual([]);
    }),
    { numRuns: 15 },
  );
});

function failing(): never {
  throw new Error('it is broken');
}
