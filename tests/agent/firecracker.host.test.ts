import { readdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import {
  collectBuilds,
  createSandbox,
  destroySandbox,
  forkSandbox,
  resumeSandbox,
} from '@torpor/agent/testing';
import { BUILD_FILES } from '@torpor/builds';
import { newId } from '@torpor/protocol';
import { request } from '@torpor/testkit/agent';
import { vmmPlatform } from '@torpor/vmm';
import { afterEach, expect, test, vi } from 'vitest';
import { FirecrackerWorld, type WorldOptions } from './firecracker-world.ts';

// Each machine is a Node process, which starts slowly on a busy host.
vi.setConfig({ testTimeout: 240_000 });

let world: FirecrackerWorld | undefined;

afterEach(async () => {
  await world?.[Symbol.asyncDispose]();
  world = undefined;
});

async function open(options: WorldOptions = {}): Promise<FirecrackerWorld> {
  const opened = await FirecrackerWorld.open(options);
  world = opened;
  return opened;
}

test('generations of a sandbox are diffs, and each has the memory of its guest', async () => {
  const fc = await open();
  const id = await fc.create();
  const builds: string[] = [];
  for (let generation = 0; generation < 3; generation++) {
    const buildId = await fc.pause(id);
    expect(await fc.wrongPage(buildId, id)).toBeUndefined();
    builds.push(buildId);
    await resumeSandbox(fc.registry, id);
    await fc.counts(id);
  }
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Diff']);
  const [first, second] = await Promise.all(builds.map((buildId) => fc.host.builds.get(buildId)));
  expect(second?.manifest.parentId).toBe(first?.id);
  expect(second?.manifest.producer).toMatchObject({
    vmm: 'firecracker',
    vmmVersion: '1.16.1',
    accelerator: 'kvm',
    machine: 'firecracker',
  });
  expect(first?.manifest.artifacts.kernel).toBe(fc.host.artifact('vmlinux'));
  // They contain no temporary files.
  for (const buildId of builds) {
    const files = await readdir(dirname((await fc.host.builds.get(buildId)).origin));
    expect(files.filter((file) => !Object.values<string>(BUILD_FILES).includes(file))).toEqual([]);
  }
  await destroySandbox(fc.registry, id);
  await collectBuilds(fc.registry.host);
  expect((await fc.host.leftovers()).filter((name) => !name.startsWith('pager'))).toEqual([]);
});

test('a source that keeps running is compared with its latest snapshot', async () => {
  const fc = await open();
  const id = await fc.create();
  for (const name of ['one', 'two']) {
    expect(await fc.wrongPage(await fc.snapshot(id, name), id)).toBeUndefined();
    await fc.counts(id);
  }
  expect(await fc.wrongPage(await fc.pause(id), id)).toBeUndefined();
  await resumeSandbox(fc.registry, id);
  await fc.counts(id);
  expect(await fc.wrongPage(await fc.snapshot(id, 'three'), id)).toBeUndefined();
  await fc.counts(id);
  expect(await fc.wrongPage(await fc.pause(id), id)).toBeUndefined();
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Diff', 'Diff', 'Diff']);
});

test('forks continue from the state of their source, and so does the source', async () => {
  const fc = await open();
  const id = await fc.create();
  const ids = [newId('sandbox'), newId('sandbox')];
  const { children } = await forkSandbox(fc.registry, id, ids, 0);
  for (const child of children) expect(child.result).not.toBeInstanceOf(Error);
  for (const each of [id, ...ids]) await fc.counts(each);
  for (const each of [id, ...ids]) {
    expect(await fc.wrongPage(await fc.pause(each), each)).toBeUndefined();
  }
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Diff', 'Diff']);
});

test('the next agent continues with diffs after an orderly stop of the last one', async () => {
  const fc = await open();
  const booted = await fc.create();
  const restored = await fc.create();
  await fc.pause(restored);
  await resumeSandbox(fc.registry, restored);
  await fc.snapshot(restored);
  await fc.counts(restored);
  await fc.nextAgent();
  for (const id of [booted, restored]) {
    expect(fc.registry.get(id).state).toBe('running');
    await fc.counts(id);
    expect(await fc.wrongPage(await fc.pause(id), id)).toBeUndefined();
  }
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Diff', 'Diff']);
});

test('an agent that was killed before it recorded a build causes a full snapshot, but no loss', async () => {
  const fc = await open();
  const id = await fc.create();
  await fc.snapshot(id);
  const before = fc.registry.get(id);
  await fc.counts(id);
  const second = await fc.snapshot(id);
  await fc.counts(id);
  // The build was published and referenced, the record not written.
  await fc.nextAgent(() => fc.rewind(id, { ...before, state: 'snapshotting' }));
  await fc.counts(id);
  const third = await fc.pause(id);
  expect(await fc.wrongPage(third, id)).toBeUndefined();
  expect((await fc.host.builds.get(third)).manifest.parentId).toBe(second);
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Full']);
  await resumeSandbox(fc.registry, id);
  await fc.counts(id);
});

test('so does one that was killed between the snapshot and the build', async () => {
  const fc = await open();
  const id = await fc.create();
  const first = await fc.snapshot(id);
  const before = fc.registry.get(id);
  await fc.counts(id);
  await fc.snapshot(id);
  await fc.counts(id);
  await fc.nextAgent(async () => {
    await fc.host.builds.references.set('sandbox', id, first);
    await fc.rewind(id, { ...before, state: 'snapshotting' });
  });
  expect(fc.registry.get(id).memory).toMatchObject({
    base: { kind: 'build', buildId: first, number: 1 },
  });
  await fc.counts(id);
  const next = await fc.pause(id);
  expect(await fc.wrongPage(next, id)).toBeUndefined();
  expect((await fc.host.builds.get(next)).manifest.parentId).toBe(first);
  // No diff to snapshot 1 was requested: Firecracker no longer has its dirty pages.
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Full']);
});

test('a commit that fails causes a full snapshot, and the sandbox keeps running', async () => {
  const fc = await open();
  const id = await fc.create();
  await fc.pause(id);
  await resumeSandbox(fc.registry, id);
  await fc.counts(id);
  const { references } = fc.host.builds;
  const set = vi.spyOn(references, 'set').mockRejectedValueOnce(new Error('EIO'));
  await expect(fc.pause(id)).rejects.toThrow('EIO');
  set.mockRestore();
  expect(fc.registry.get(id).state).toBe('running');
  await fc.counts(id);
  expect(await fc.wrongPage(await fc.pause(id), id)).toBeUndefined();
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Full']);
  await resumeSandbox(fc.registry, id);
  await fc.counts(id);
  expect(await fc.wrongPage(await fc.pause(id), id)).toBeUndefined();
});

test('a first snapshot that Firecracker refuses leaves a sandbox that can be committed', async () => {
  const fc = await open({ behaviour: { refuses: 'PUT /snapshot/create' } });
  const id = await fc.create();
  await expect(fc.snapshot(id)).rejects.toThrow('The fake refuses');
  await fc.counts(id);
  expect(await fc.wrongPage(await fc.snapshot(id), id)).toBeUndefined();
  await fc.counts(id);
  expect(await fc.wrongPage(await fc.pause(id), id)).toBeUndefined();
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Full', 'Diff']);
});

test('a kept boot is the parent of the following builds, of this sandbox and of the next', async () => {
  const fc = await open({ keepBoots: true });
  const first = await fc.create();
  const [boot = ''] = await fc.host.builds.list();
  const paused = await fc.pause(first);
  expect(await fc.wrongPage(paused, first)).toBeUndefined();
  expect((await fc.host.builds.get(paused)).manifest.parentId).toBe(boot);
  const { record, timings } = await createSandbox(fc.registry, request());
  expect(timings.map(({ phase }) => phase)).toContain('restore');
  await fc.counts(record.id);
  const next = await fc.pause(record.id);
  expect(await fc.wrongPage(next, record.id)).toBeUndefined();
  expect((await fc.host.builds.get(next)).manifest.parentId).toBe(boot);
  expect(await fc.snapshotsTaken()).toEqual(['Diff', 'Diff', 'Diff']);
});

test('a build of another version of Firecracker is refused by name, and its boots are removed', async () => {
  const fc = await open({ keepBoots: true });
  const id = await fc.create();
  const buildId = await fc.pause(id);
  const vmm = vmmPlatform({ driver: 'firecracker', vmmVersion: '1.17.0', accelerator: 'kvm' });
  await fc.nextAgent(undefined, { vmm });
  await expect(resumeSandbox(fc.registry, id)).rejects.toMatchObject({
    code: 'build_invalid',
    message: expect.stringContaining(
      `${fc.host.builds.path(buildId, BUILD_FILES.manifest)}: was made with Firecracker 1.16.1`,
    ),
    remedy: expect.stringContaining('TORPOR_FIRECRACKER'),
  });
  expect(fc.registry.get(id)).toMatchObject({ state: 'paused', buildId });
  const { references } = fc.host.builds;
  expect(references.all().map(({ kind, name }) => `${kind} ${name}`)).toEqual([`sandbox ${id}`]);
});
