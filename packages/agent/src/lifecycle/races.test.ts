import { copyFile } from 'node:fs/promises';
import { type Build, LocalBuildStore } from '@torpor/builds';
import { newId, TorporError } from '@torpor/protocol';
import { request, type StubVm, TEMPLATE, World } from '@torpor/testkit/agent';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { collectBuilds } from '../builds/collect.ts';
import { readRecord } from '../registry/record.ts';
import { createSandbox } from './create.ts';
import { destroySandbox } from './destroy.ts';
import { forkSandbox } from './fork.ts';
import { pauseSandbox } from './pause.ts';
import { reapIdle } from './reap.ts';
import { resumeSandbox } from './resume.ts';
import { deleteSnapshot, snapshotSandbox } from './snapshot.ts';

/*
 * Concurrent operations. Where one must start while the other is at a certain point, a gate
 * blocks the other there.
 */

let world: World;

beforeEach(async () => {
  world = await World.open();
});
afterEach(async () => {
  await world.registry.close();
  await world[Symbol.asyncDispose]();
});

/** A caller that enters the gate waits there until it is opened. */
class Gate {
  readonly reached: Promise<void>;
  readonly #reach = Promise.withResolvers<void>();
  readonly #open = Promise.withResolvers<void>();

  constructor() {
    this.reached = this.#reach.promise;
  }

  open(): void {
    this.#open.resolve();
  }

  async pass(): Promise<void> {
    this.#reach.resolve();
    await this.#open.promise;
  }
}

async function code(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'done',
    (error: unknown) => TorporError.from(error).code,
  );
}

async function snapshot(resumeSource = true): Promise<string> {
  const { build } = await snapshotSandbox(world.registry, world.source, TEMPLATE, {
    resumeSource,
  });
  return build.id;
}

/** A pause that has reached the point where the state is saved. */
async function pausing(): Promise<{ gate: Gate; pause: Promise<unknown> }> {
  const gate = new Gate();
  world.host.driver.beforeSave = () => gate.pass();
  const pause = pauseSandbox(world.registry, world.source);
  pause.catch(() => undefined);
  await gate.reached;
  world.host.driver.beforeSave = () => undefined;
  return { gate, pause };
}

/** A resume that has reached the acquisition of its network slot. */
async function resuming(): Promise<{ gate: Gate; resume: Promise<unknown> }> {
  const gate = new Gate();
  world.host.slots.beforeAcquire = () => gate.pass();
  const resume = resumeSandbox(world.registry, world.source);
  resume.catch(() => undefined);
  await gate.reached;
  world.host.slots.beforeAcquire = () => undefined;
  return { gate, resume };
}

test('a sandbox that is destroyed while it is paused is paused, and then removed with its build', async () => {
  await world.createSource();
  const { gate, pause } = await pausing();
  const destroyed = destroySandbox(world.registry, world.source);
  gate.open();
  expect(await code(pause)).toBe('done');
  await destroyed;
  expect(await world.clear()).toEqual([]);
});

test('a pause after the destruction finds no sandbox', async () => {
  await world.createSource();
  const gate = new Gate();
  world.host.driver.beforeKill = () => gate.pass();
  const destroyed = destroySandbox(world.registry, world.source);
  await gate.reached;
  const pause = code(pauseSandbox(world.registry, world.source));
  gate.open();
  await destroyed;
  expect(await pause).toBe('not_found');
});

test('two resumes start one machine, and both return it', async () => {
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  const { gate, resume } = await resuming();
  const second = resumeSandbox(world.registry, world.source);
  gate.open();
  await resume;
  await second;
  expect(world.host.driver.living()).toHaveLength(1);
  expect(await world.read(world.source)).toBe(1);
});

test('a resume of a sandbox that is destroyed meanwhile leaves nothing', async () => {
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  const { gate, resume } = await resuming();
  const destroyed = destroySandbox(world.registry, world.source);
  gate.open();
  expect(await code(resume)).toBe('conflict');
  await destroyed;
  expect(await world.clear()).toEqual([]);
});

test.each([
  ['destroyed', false],
  ['paused', true],
])('an idle sandbox that is used while the reaper waits for it is not %s', async (_, autoPause) => {
  await createSandbox(world.registry, request({ id: world.source, timeoutSec: 10, autoPause }));
  world.host.clock += 20_000;
  const before = resumeSandbox(world.registry, world.source, 10);
  const reaped = reapIdle(world.registry);
  world.registry.touch(world.source);
  await Promise.all([before, reaped]);
  expect(world.registry.get(world.source).state).toBe('running');
});

test.each([
  ['destroyed', false, 'not_found', []],
  ['paused', true, 'done', ['paused']],
])(
  'a pause at the end of the time to live finds the sandbox %s',
  async (_, autoPause, result, states) => {
    await createSandbox(world.registry, request({ id: world.source, timeoutSec: 10, autoPause }));
    world.host.clock += 20_000;
    const reaped = reapIdle(world.registry);
    const pause = code(pauseSandbox(world.registry, world.source));
    await reaped;
    expect(await pause).toBe(result);
    expect(Object.values(world.states())).toEqual(states);
  },
);

test.each([false, true])(
  'a sandbox that is being paused does not expire (auto-pause: %s)',
  async (autoPause) => {
    await createSandbox(world.registry, request({ id: world.source, timeoutSec: 10, autoPause }));
    await world.write(world.source, 1);
    const { gate, pause } = await pausing();
    world.host.clock += 20_000;
    const reaped = reapIdle(world.registry);
    gate.open();
    await Promise.all([pause, reaped]);
    await world.revive(world.source);
    expect(await world.read(world.source)).toBe(1);
  },
);

test('a snapshot during a resume waits for it', async () => {
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  const { gate, resume } = await resuming();
  const taken = snapshot();
  gate.open();
  await resume;
  const buildId = await taken;
  expect(world.registry.get(world.source)).toMatchObject({ state: 'running', buildId });
});

/** A snapshot that keeps the sandbox running, and has reached the point where the state is saved. */
async function snapshotting(): Promise<{ gate: Gate; vm: StubVm; taken: Promise<string> }> {
  const gate = new Gate();
  const reached = Promise.withResolvers<StubVm>();
  world.host.driver.beforeSave = (vm) => {
    reached.resolve(vm);
    return gate.pass();
  };
  const taken = snapshot();
  taken.catch(() => undefined);
  const vm = await reached.promise;
  world.host.driver.beforeSave = () => undefined;
  return { gate, vm, taken };
}

test('a call to the guest during a snapshot waits for it, and proceeds', async () => {
  await world.createSource();
  const { gate, taken } = await snapshotting();
  const used = world.registry.use(world.source);
  expect(world.registry.get(world.source).state).toBe('snapshotting');
  gate.open();
  using lease = await used;
  expect(await lease.guest.isHealthy(2_000)).toBe(true);
  expect(world.registry.get(world.source).state).toBe('running');
  await taken;
});

test('a call to the guest during a snapshot is refused if the machine does not resume', async () => {
  await world.createSource();
  const { gate, vm, taken } = await snapshotting();
  const used = code(world.registry.use(world.source));
  vm.die();
  await expect.poll(() => world.host.driver.living()).toEqual([]);
  gate.open();
  expect(await used).toBe('invalid_state');
  expect(await code(taken)).not.toBe('done');
  expect(world.registry.get(world.source).state).toBe('error');
});

test('a call to the guest during a snapshot does not wait forever', async () => {
  await world.createSource();
  const { gate, taken } = await snapshotting();
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const used = code(world.registry.use(world.source));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(await used).toBe('invalid_state');
  } finally {
    vi.useRealTimers();
  }
  gate.open();
  await taken;
  expect(world.registry.get(world.source).state).toBe('running');
});

test('a call to the guest during a pause is refused at once', async () => {
  await world.createSource();
  const { gate, pause } = await pausing();
  expect(await code(world.registry.use(world.source))).toBe('invalid_state');
  gate.open();
  await pause;
});

test('deleting and collecting a snapshot while a sandbox is created from it has no effect on the sandbox', async () => {
  await world.createSource();
  await snapshot();
  await destroySandbox(world.registry, world.source);
  const gate = new Gate();
  world.host.slots.beforeAcquire = () => gate.pass();
  const creation = createSandbox(
    world.registry,
    request({ templateId: TEMPLATE, fromSnapshot: true }),
  );
  await gate.reached;
  await deleteSnapshot(world.registry, TEMPLATE);
  expect((await collectBuilds(world.registry.host)).removedBuildIds).toEqual([]);
  gate.open();
  const { record } = await creation;
  expect(await world.read(record.id)).toBe(1);
  expect(await world.clear()).toEqual([]);
});

test('a snapshot is leased as soon as its name is looked up', async () => {
  await world.createSource();
  await snapshot();
  await destroySandbox(world.registry, world.source);
  // Before any step of the creation but the lookup itself.
  const creation = createSandbox(
    world.registry,
    request({ templateId: TEMPLATE, fromSnapshot: true }),
  );
  const removal = deleteSnapshot(world.registry, TEMPLATE).then(() =>
    collectBuilds(world.registry.host),
  );
  const { record } = await creation;
  await removal;
  expect(await world.read(record.id)).toBe(1);
  expect(await world.faults()).toEqual([]);
  const late = request({ templateId: TEMPLATE, fromSnapshot: true });
  expect(await code(createSandbox(world.registry, late))).toBe('not_found');
});

test('a fork returns its children even if the source is destroyed meanwhile', async () => {
  await world.createSource();
  const gate = new Gate();
  world.host.slots.beforeAcquire = () => gate.pass();
  const childIds = [newId('sandbox'), newId('sandbox')];
  const fork = forkSandbox(world.registry, world.source, childIds, 0);
  await gate.reached;
  await destroySandbox(world.registry, world.source);
  await collectBuilds(world.registry.host);
  gate.open();
  const { children } = await fork;
  expect(children.map(({ id }) => id)).toEqual(childIds);
  for (const id of childIds) expect(await world.read(id)).toBe(1);
  expect(await world.clear()).toEqual([]);
});

test('a collection keeps a build that is published and not referenced yet', async () => {
  await world.createSource();
  const { references } = world.host.builds;
  const set = references.set.bind(references);
  const collected: (readonly string[])[] = [];
  references.set = async (...args) => {
    collected.push(await world.host.builds.collect());
    await set(...args);
  };
  await pauseSandbox(world.registry, world.source);
  expect(collected).toEqual([[]]);
  await world.revive(world.source);
  expect(await world.read(world.source)).toBe(1);
});

test('a reference that is added while a collection reads headers keeps its build', async () => {
  await world.createSource();
  const kept = await snapshot();
  await world.write(world.source, 2);
  await pauseSandbox(world.registry, world.source);
  const other = world.registry.get(world.source).buildId ?? '';
  const { builds } = world.host;
  await builds.references.delete('template', TEMPLATE);
  await builds.references.set('template', 'other', other);
  const gate = new Gate();
  const get = builds.get.bind(builds);
  builds.get = async (id): Promise<Build> => {
    await gate.pass();
    return get(id);
  };
  const collection = builds.collect();
  await gate.reached;
  await builds.references.set('template', TEMPLATE, kept);
  gate.open();
  await collection;
  expect(await builds.list()).toContain(kept);
  expect(await world.faults()).toEqual([]);
});

test('two snapshots under one name: the later one replaces the earlier, also on disk', async () => {
  await world.createSource();
  const second = newId('sandbox');
  await createSandbox(world.registry, request({ id: second }));
  await Promise.all(
    [world.source, second].map((id) =>
      snapshotSandbox(world.registry, id, TEMPLATE, { resumeSource: true }),
    ),
  );
  const name = world.host.builds.references.get('template', TEMPLATE);
  const { directory } = world.host;
  const reopened = await LocalBuildStore.open({
    directory,
    dataExtents: () => [],
    copySparse: copyFile,
  });
  expect(reopened.references.get('template', TEMPLATE)).toBe(name);
});

test('an exit of the pager during a pause loses the machine, and the last build can be resumed', async () => {
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  await resumeSandbox(world.registry, world.source);
  await world.write(world.source, 2);
  const { gate, pause } = await pausing();
  world.host.pages.die();
  await expect.poll(() => world.host.driver.living()).toEqual([]);
  gate.open();
  expect(await code(pause)).not.toBe('');
  await expect.poll(() => world.registry.get(world.source).state).toMatch(/^(?:error|paused)$/);
  const { state, reason } = world.registry.get(world.source);
  await world.revive(world.source);
  // A build that was complete before the machine was killed is valid.
  expect([
    ['error', 1],
    ['paused', 2],
  ]).toContainEqual([state, await world.read(world.source)]);
  if (state === 'error') expect(reason).toMatch(/page server/);
  expect(await world.clear()).toEqual([]);
});

test('an exit of the pager during a resume leaves the sandbox paused', async () => {
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  world.host.guests.healthy = false;
  const resume = resumeSandbox(world.registry, world.source);
  await expect.poll(() => world.host.driver.living().length).toBe(1);
  world.host.pages.die();
  await expect(resume).rejects.toMatchObject({ code: 'vmm_failed', message: /page server/ });
  expect(world.registry.get(world.source).state).toBe('paused');
  expect(await world.host.leftovers()).toEqual([world.source]);
  world.host.guests.healthy = true;
  await world.revive(world.source);
  expect(await world.read(world.source)).toBe(1);
});

test('an exit of the pager loses the machines that it served, and no other', async () => {
  await world.createSource();
  const other = newId('sandbox');
  await createSandbox(world.registry, request({ id: other }));
  await pauseSandbox(world.registry, world.source);
  await resumeSandbox(world.registry, world.source);
  world.host.pages.die();
  await expect
    .poll(() => world.registry.get(world.source))
    .toMatchObject({ state: 'error', reason: expect.stringMatching(/page server/) });
  expect(world.registry.get(other).state).toBe('running');
  expect(world.host.driver.living()).toHaveLength(1);
  await world.revive(world.source);
  expect(await world.read(world.source)).toBe(1);
});

test('a guest that does not respond is not resumed, and is once it responds again', async () => {
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  world.host.guests.healthy = false;
  await expect(resumeSandbox(world.registry, world.source)).rejects.toMatchObject({
    code: 'guest_unreachable',
    remedy: expect.stringContaining('TORPOR_GUEST_TIMEOUT'),
  });
  world.host.guests.healthy = true;
  world.host.guests.initStatus = 500;
  expect(await code(resumeSandbox(world.registry, world.source))).not.toBe('done');
  expect(world.registry.get(world.source).state).toBe('paused');
  expect(await world.host.leftovers()).toEqual([world.source]);
  world.host.guests.initStatus = 204;
  await world.revive(world.source);
  expect(await world.read(world.source)).toBe(1);
});

test('a sandbox keeps running after a crash between the publication of its build and the reference', async () => {
  await world.createSource();
  const { references } = world.host.builds;
  references.set = () => new Promise(() => undefined);
  void pauseSandbox(world.registry, world.source);
  await expect.poll(() => world.host.builds.list()).toHaveLength(1);
  const before = world.registry;
  await world.nextAgent();
  expect(world.registry.get(world.source).state).toBe('running');
  // The build had the sandbox's own disk file.
  expect(await world.host.builds.list()).toEqual([]);
  await world.write(world.source, 5);
  await pauseSandbox(world.registry, world.source);
  await world.revive(world.source);
  expect(await world.read(world.source)).toBe(5);
  expect(before.get(world.source).state).toBe('pausing');
  expect((await readRecord(world.host.layout.recordFile(world.source)))?.state).toBe('running');
});

test('a resumed sandbox gets its address back, unless another has it meanwhile', async () => {
  const { registry, source, host } = world;
  const { record } = await createSandbox(registry, request());
  await pauseSandbox(registry, record.id);
  // Now a lower index is free as well.
  await destroySandbox(registry, source);
  const resumed = await resumeSandbox(registry, record.id);
  expect(resumed.record.slot).toEqual(record.slot);

  await pauseSandbox(registry, record.id);
  await createSandbox(registry, request());
  await createSandbox(registry, request());
  expect(host.slots.leased.has(record.slot?.index ?? -1)).toBe(true);
  const moved = await resumeSandbox(registry, record.id);
  expect(moved.record.slot?.index).not.toBe(record.slot?.index);
});

test('connections to a guest are reset when it no longer exists, and not by a pause', async () => {
  const { registry, host } = world;
  const { record } = await createSandbox(registry, request());
  await pauseSandbox(registry, record.id);
  expect(host.slots.resets).toEqual([]);
  await destroySandbox(registry, record.id);
  expect(host.slots.resets).toEqual([record.slot?.index]);
  const { record: failing } = await createSandbox(registry, request());
  process.kill(failing.machine?.pid ?? 0, 'SIGKILL');
  await expect.poll(() => host.slots.resets).toEqual([record.slot?.index, failing.slot?.index]);
});
