import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { sourceWithDeadAncestor, World } from '@torpor/testkit/agent';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { collectBuilds } from '../builds/collect.ts';
import { pauseSandbox } from './pause.ts';

/*
 * After a pause the chain of a sandbox's builds is compacted if most of its blocks are unused.
 * That only makes the next resume cheaper: whether it succeeds or not, the sandbox is paused
 * and can be resumed.
 */

let world: World;
let ancestor: string;

beforeEach(async () => {
  world = await World.open();
  await sourceWithDeadAncestor(world);
  ancestor = world.registry.get(world.source).buildId ?? '';
});
afterEach(() => world[Symbol.asyncDispose]());

/** The entries of the directory of builds after a collection, including hidden ones. */
async function stored(): Promise<string[]> {
  await collectBuilds(world.registry.host);
  return (await readdir(join(world.host.directory, 'builds'))).sort();
}

async function expectIntact(): Promise<void> {
  expect(world.registry.get(world.source).state).toBe('paused');
  expect(await world.faults()).toEqual([]);
  await world.revive(world.source);
  expect(await world.read(world.source)).toBe(2);
}

test('a chain that is mostly unused becomes one build, from which the sandbox is resumed', async () => {
  await pauseSandbox(world.registry, world.source);
  const { buildId = '' } = world.registry.get(world.source);
  expect(await stored()).toEqual([buildId]);
  const { header, manifest } = await world.host.builds.check(buildId);
  expect(header).toMatchObject({ generation: 0, buildId });
  expect(manifest.parentId).toBeUndefined();
  await expectIntact();
});

test('a compaction without disk space leaves the sandbox paused on its old build, and nothing half-made', async () => {
  const { builds } = world.host;
  const stage = builds.stage.bind(builds);
  let staged = 0;
  builds.stage = async () => {
    // The first is that of the pause.
    if (staged++ > 0) throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    return stage();
  };
  await pauseSandbox(world.registry, world.source);
  expect(staged).toBe(2);
  const { buildId = '' } = world.registry.get(world.source);
  expect(await stored()).toEqual([ancestor, buildId].sort());
  await expectIntact();
});

test('a compacted build that cannot be referenced is discarded', async () => {
  const { references } = world.host.builds;
  const set = references.set.bind(references);
  const named: string[] = [];
  references.set = async (kind, name, buildId) => {
    named.push(buildId);
    if (named.length === 2) throw new Error('it is broken');
    await set(kind, name, buildId);
  };
  await pauseSandbox(world.registry, world.source);
  const [committed = '', compacted = ''] = named;
  expect(world.registry.get(world.source).buildId).toBe(committed);
  expect(references.get('sandbox', world.source)).toBe(committed);
  const left = await stored();
  expect(left).toEqual([ancestor, committed].sort());
  expect(left).not.toContain(compacted);
  await expectIntact();
});
