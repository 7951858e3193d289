import { readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BUILD_FILES, type BuildFileName } from '@torpor/builds';
import { TorporError } from '@torpor/protocol';
import { request, TEMPLATE, World } from '@torpor/testkit/agent';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { collectBuilds } from '../builds/collect.ts';
import { writeRecord } from '../registry/record.ts';
import { createSandbox } from './create.ts';
import { destroySandbox } from './destroy.ts';
import { forkSandbox } from './fork.ts';
import { pauseSandbox } from './pause.ts';
import { resumeSandbox } from './resume.ts';
import { deleteSnapshot, snapshotSandbox } from './snapshot.ts';

let world: World;
/** The builds of the source: the second needs blocks of the first. */
let first: string;
let second: string;

beforeEach(async () => {
  world = await World.open();
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  first = world.registry.get(world.source).buildId ?? '';
  await resumeSandbox(world.registry, world.source);
  await writeFile(world.host.layout.upperDisk(world.source), 'disk 1');
  await snapshotSandbox(world.registry, world.source, TEMPLATE, { resumeSource: false });
  second = world.registry.get(world.source).buildId ?? '';
});
afterEach(async () => {
  await world.registry.close();
  await world[Symbol.asyncDispose]();
});

function path(buildId: string, file: BuildFileName): string {
  return world.host.builds.path(buildId, file);
}

async function flipBit(file: string, at: number): Promise<void> {
  const bytes = await readFile(file);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await writeFile(file, bytes);
}

async function replace(file: string, from: string, to: string): Promise<void> {
  const text = await readFile(file, 'utf8');
  expect(text).toContain(from);
  await writeFile(file, text.replace(from, to));
}

const DAMAGES: [string, () => Promise<string>][] = [
  [
    'a torn disk',
    async () => {
      await truncate(path(second, BUILD_FILES.disk), 2);
      return path(second, BUILD_FILES.disk);
    },
  ],
  [
    'torn memory',
    async () => {
      await truncate(path(first, BUILD_FILES.memory), 4096);
      return path(second, BUILD_FILES.header);
    },
  ],
  [
    'a header with a flipped bit in its mapping',
    async () => {
      const header = path(second, BUILD_FILES.header);
      await flipBit(header, (await readFile(header)).length - 1);
      return header;
    },
  ],
  [
    'a header with a flipped bit in its beginning',
    async () => {
      await flipBit(path(second, BUILD_FILES.header), 3);
      return path(second, BUILD_FILES.header);
    },
  ],
  [
    'a missing ancestor',
    async () => {
      await rm(dirname(path(first, BUILD_FILES.manifest)), { recursive: true });
      return path(second, BUILD_FILES.header);
    },
  ],
  [
    'a missing state',
    async () => {
      await rm(path(second, BUILD_FILES.state));
      return path(second, BUILD_FILES.state);
    },
  ],
  [
    'a manifest of a later version',
    async () => {
      await replace(path(second, BUILD_FILES.manifest), '"version": 1', '"version": 2');
      return path(second, BUILD_FILES.manifest);
    },
  ],
  [
    'a manifest of another VMM',
    async () => {
      await replace(path(second, BUILD_FILES.manifest), '"vmm": "qemu"', '"vmm": "firecracker"');
      return path(second, BUILD_FILES.manifest);
    },
  ],
  ...(
    [
      ['later VMM', '"vmmVersion": "10.0.0"', '"vmmVersion": "11.0.0"'],
      ['machine of another type', '"machine": "microvm,pic=off"', '"machine": "q35"'],
      ['machine under another accelerator', '"accelerator": "tcg"', '"accelerator": "kvm"'],
      ['machine with another processor', '"cpuModel": "max"', '"cpuModel": "host"'],
    ] as const
  ).map(([what, from, to]): [string, () => Promise<string>] => [
    `a manifest of a ${what}`,
    async () => {
      await replace(path(second, BUILD_FILES.manifest), from, to);
      return path(second, BUILD_FILES.manifest);
    },
  ]),
  [
    'a state with a flipped bit',
    async () => {
      await flipBit(path(second, BUILD_FILES.state), 7);
      return path(second, BUILD_FILES.state);
    },
  ],
  [
    'a missing base image',
    async () => {
      await rm(world.host.artifact('base.ext4'));
      return world.host.artifact('base.ext4');
    },
  ],
];

describe.each(DAMAGES)('%s', (_, damage) => {
  test('leaves a sandbox paused and is named; nothing is left of the attempt', async () => {
    const file = await damage();
    const failure = await resumeSandbox(world.registry, world.source).catch((error: unknown) =>
      TorporError.from(error),
    );
    expect(failure).toMatchObject({ code: 'build_invalid' });
    expect((failure as TorporError).message).toContain(file);
    expect(world.registry.get(world.source)).toMatchObject({ state: 'paused', buildId: second });
    expect(await world.host.leftovers()).toEqual([world.source]);
    const creation = createSandbox(
      world.registry,
      request({ templateId: TEMPLATE, fromSnapshot: true }),
    );
    await expect(creation).rejects.toMatchObject({ code: 'build_invalid' });
    expect(await world.host.leftovers()).toEqual([world.source]);
    const { children } = await forkSandbox(world.registry, world.source, ['sbfork'], 0).catch(
      () => ({ children: [] }),
    );
    expect(children).toEqual([]);
    expect(await world.host.leftovers()).toEqual([world.source]);
  });
});

test('a sandbox whose build is damaged can be destroyed, and the next agent still starts', async () => {
  await truncate(path(second, BUILD_FILES.header), 10);
  await world.registry.close();
  await world.nextAgent();
  expect(world.registry.get(world.source).state).toBe('paused');
  await deleteSnapshot(world.registry, TEMPLATE);
  await destroySandbox(world.registry, world.source);
  expect((await collectBuilds(world.registry.host)).removedBuildIds.toSorted()).toEqual(
    [first, second].toSorted(),
  );
  expect(await world.host.leftovers()).toEqual([]);
});

test('a kept boot that cannot be restored is replaced', async () => {
  await using host = await World.open(undefined, true);
  await host.createSource();
  const [boot] = await host.host.builds.list();
  await truncate(host.host.builds.path(boot ?? '', BUILD_FILES.memory), 0);
  const { record, timings } = await createSandbox(host.registry, request());
  expect(timings.map(({ phase }) => phase)).toContain('boot');
  const again = await createSandbox(host.registry, request());
  expect(again.timings.map(({ phase }) => phase)).toContain('restore');
  for (const { id } of [record, again.record]) expect(host.states()[id]).toBe('running');
  await host.registry.close();
});

test('a boot that was kept for another VMM is dropped at the next start', async () => {
  await using kept = await World.open(undefined, true);
  await kept.createSource();
  const [boot = ''] = await kept.host.builds.list();
  const boots = () =>
    kept.host.builds.references.all().filter(({ name }) => name.startsWith('boot-'));
  await kept.registry.close();
  await kept.nextAgent();
  expect(boots()).toHaveLength(1);
  await replace(
    kept.host.builds.path(boot, BUILD_FILES.manifest),
    '"vmmVersion": "10.0.0"',
    '"vmmVersion": "10.0.1"',
  );
  await kept.registry.close();
  await kept.nextAgent();
  expect(boots()).toEqual([]);
});

test('the reference of a sandbox whose record cannot be read is kept, and so is its build', async () => {
  const { layout, builds } = world.host;
  await world.registry.close();
  const file = layout.recordFile(world.source);
  const text = await readFile(file, 'utf8');
  await writeFile(file, text.slice(0, -20));
  await world.nextAgent();
  expect(world.states()).toEqual({});
  await deleteSnapshot(world.registry, TEMPLATE);
  await collectBuilds(world.registry.host);
  expect(world.host.builds.references.all()).toEqual([
    { kind: 'sandbox', name: world.source, buildId: second },
  ]);
  expect(await builds.list()).toEqual([first, second]);
  await world.registry.close();
  await writeFile(file, text);
  await world.nextAgent();
  await world.revive(world.source);
  expect(await world.read(world.source)).toBe(1);
});

test('the reference gives the last build if a crash prevented its entry in the record', async () => {
  const record = world.registry.get(world.source);
  await world.registry.close();
  await writeRecord(world.host.layout.recordFile(world.source), { ...record, buildId: first });
  await world.nextAgent();
  expect(world.registry.get(world.source).buildId).toBe(second);
});
