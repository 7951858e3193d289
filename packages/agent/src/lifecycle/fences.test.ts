/** Calls of a control plane that has lost its operation: see `Fences`. */
import { newId, TorporError } from '@torpor/protocol';
import { request, TEMPLATE, World } from '@torpor/testkit/agent';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Fences } from '../registry/fences.ts';
import { readRecord } from '../registry/record.ts';
import { createSandbox } from './create.ts';
import { destroySandbox } from './destroy.ts';
import { forkSandbox } from './fork.ts';
import { pauseSandbox } from './pause.ts';
import { resumeSandbox } from './resume.ts';
import { deleteSnapshot, listSnapshots, snapshotSandbox } from './snapshot.ts';

const LATE = 7;
const FENCE = 8;

describe('with a sandbox', () => {
  let world: World;
  beforeEach(async () => {
    world = await World.open();
    await world.createSource();
  });
  afterEach(async () => {
    await world.registry.close();
    await world[Symbol.asyncDispose]();
  });

  test.each([
    ['pause', () => pauseSandbox(world.registry, world.source, LATE)],
    ['destroy', () => destroySandbox(world.registry, world.source, LATE)],
    [
      'snapshot',
      () =>
        snapshotSandbox(world.registry, world.source, TEMPLATE, {
          resumeSource: false,
          fence: LATE,
        }),
    ],
  ])('a late %s is refused, and so is one after a restart', async (_, call) => {
    await world.registry.fenceOff(world.source, FENCE);
    await expect(call()).rejects.toMatchObject({ code: 'conflict' });
    expect(world.registry.get(world.source).state).toBe('running');
    expect(listSnapshots(world.registry)).toEqual([]);
    const record = await readRecord(world.host.layout.recordFile(world.source));
    expect(record?.fence).toBe(FENCE);
  });

  test('a late resume is refused', async () => {
    await pauseSandbox(world.registry, world.source, LATE - 1);
    await world.registry.fenceOff(world.source, FENCE);
    const resumed = resumeSandbox(world.registry, world.source, undefined, LATE);
    await expect(resumed).rejects.toMatchObject({ code: 'conflict' });
    expect(world.registry.get(world.source).state).toBe('paused');
    await resumeSandbox(world.registry, world.source, undefined, FENCE);
    await pauseSandbox(world.registry, world.source);
  });

  test('a late create is refused, also of a copy; its source is not stopped', async () => {
    const id = newId('sandbox');
    await world.registry.fenceOff(id, FENCE);
    const created = createSandbox(world.registry, { ...request({ id }), fence: LATE });
    await expect(created).rejects.toMatchObject({ code: 'conflict' });
    const forked = forkSandbox(world.registry, world.source, [newId('sandbox'), id], 0, LATE);
    await expect(forked).rejects.toMatchObject({ code: 'conflict' });
    expect(world.registry.list().map((record) => record.id)).toEqual([world.source]);
  });

  test('a snapshot that was released while it was made is not kept', async () => {
    const made = snapshotSandbox(world.registry, world.source, TEMPLATE, {
      resumeSource: true,
      fence: LATE,
    }).catch((error: unknown) => TorporError.from(error).code);
    await deleteSnapshot(world.registry, TEMPLATE, FENCE);
    expect(await made).toBe('conflict');
    expect(listSnapshots(world.registry)).toEqual([]);
  });

  test('fencing off waits for an admitted operation that has not changed the state yet', async () => {
    await pauseSandbox(world.registry, world.source, LATE - 1);
    const resumed = resumeSandbox(world.registry, world.source, undefined, LATE);
    await world.registry.fenceOff(world.source, FENCE);
    const { state } = world.registry.get(world.source);
    await resumed.catch(() => undefined);
    expect(world.registry.get(world.source).state).toBe(state);
  });
});

describe('what has not been seen for an hour', () => {
  test('is forgotten, and lower fences of unknown resources are refused', () => {
    let now = 0;
    const fences = new Fences(() => now);
    fences.admit('a', 5);
    fences.admit('b', 2);
    now = 3_600_000;
    fences.admit('c', 9);
    for (const resource of ['a', 'b', 'd']) {
      expect(() => fences.admit(resource, 4)).toThrow(/too late/);
      fences.admit(resource, 5);
    }
    expect(() => fences.admit('c', 8)).toThrow(/too late/);
    fences.admit('c', undefined);
  });
});
