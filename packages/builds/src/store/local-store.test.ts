import {
  copyFile,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Extent } from '../diff/capture.ts';
import { BuildFormatError } from '../errors.ts';
import { BLOCK_SIZE } from '../header/mapping.ts';
import { parseMemoryHeader } from '../header/memory-header.ts';
import { BUILD_FILES, type BuildFileName, parseManifest } from '../manifest/manifest.ts';
import { newBuildId } from '../uuid.ts';
import type { Build, ManifestDraft } from './build-store.ts';
import { needsCompaction } from './compact.ts';
import { LocalBuildStore } from './local-store.ts';

const BLOCKS = 256;
/** How many inputs the fuzzer tries; a campaign raises it. */
const FUZZ_CASES = Number(process.env.TORPOR_FUZZ_CASES ?? 20_000);

const DRAFT: ManifestDraft = {
  producer: {
    torpor: '0.1.0',
    vmm: 'qemu',
    vmmVersion: '10.0.2',
    accelerator: 'tcg',
    machine: 'microvm',
    cpuModel: 'max',
    kernelVersion: '6.12.0',
    envdVersion: '0.6.4',
  },
  vcpus: 1,
  memoryMiB: 1,
  diskMiB: 1,
  artifacts: { base: '/images/base' },
};

let directory: string;
let store: LocalBuildStore;
/** The parts of RAM that are no holes, while it is committed. */
let written: readonly Extent[] | undefined;

/** Any other file is one extent, as on a file system without holes. */
const dataExtents = () => written ?? [{ offset: 0, length: 2 ** 20 }];

const openStore = () => LocalBuildStore.open({ directory, dataExtents, copySparse: copyFile });

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-builds-'));
  store = await openStore();
});
afterEach(() => rm(directory, { recursive: true }));

/** Commits RAM in which the blocks `dirty` are filled with `value`; the others are as in the parent. */
async function commit(value: number, dirty: number[], parent?: Build): Promise<Build> {
  await using staged = await store.stage();
  const ram = Buffer.alloc(BLOCKS * BLOCK_SIZE);
  for (const block of dirty) ram.fill(value, block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
  const path = join(directory, 'ram');
  await writeFile(path, ram);
  written = dirty.map((block) => ({ offset: block * BLOCK_SIZE, length: BLOCK_SIZE }));
  const holes = parent === undefined ? 'zero' : 'unchanged';
  await staged.writeMemory({ path, blockCount: BLOCKS, holes }, parent);
  written = undefined;
  await writeFile(staged.statePath, 'state');
  const disk = join(directory, 'disk');
  await writeFile(disk, Buffer.alloc(2 ** 20, value));
  await staged.copyDisk(disk);
  await staged.publish(DRAFT);
  return store.get(staged.id);
}

async function readBlock(build: Build, block: number): Promise<number> {
  await using reader = await store.openMemory(build);
  const bytes = Buffer.alloc(BLOCK_SIZE);
  await reader.read(bytes, block);
  return bytes.readUInt8(0);
}

describe('publishing', () => {
  test('makes a build that reads back, in this process and the next', async () => {
    const parent = await commit(1, [0, 1]);
    const child = await commit(2, [1, 2], parent);
    store = await openStore();
    const again = await store.get(child.id);
    expect(await Promise.all([0, 1, 2, 3].map((block) => readBlock(again, block)))).toEqual([
      1, 2, 2, 0,
    ]);
    await store.verify(child.id);
    expect(await store.list()).toEqual([parent.id, child.id]);
  });

  test('that is discarded leaves nothing; a crash leaves a directory that the next start removes', async () => {
    {
      await using staged = await store.stage();
      await writeFile(staged.statePath, 'half');
    }
    const abandoned = await store.stage();
    await writeFile(abandoned.statePath, 'half');
    expect(await readdir(join(directory, 'builds'))).toHaveLength(1);
    store = await openStore();
    expect(await readdir(join(directory, 'builds'))).toEqual([]);
  });
});

test('a build is not published with a temporary file', async () => {
  await using staged = await store.stage();
  await writeFile(staged.statePath, 'state');
  await writeFile(staged.scratchPath, 'the RAM of a guest');
  await expect(staged.publish(DRAFT)).rejects.toMatchObject({ code: 'internal_error' });
  expect(await store.list()).toEqual([]);
});

test('a build is not published without a file that exists and cannot be read', async () => {
  await using staged = await store.stage();
  await writeFile(staged.statePath, 'state');
  await symlink(BUILD_FILES.disk, join(dirname(staged.statePath), BUILD_FILES.disk));
  await expect(staged.publish(DRAFT)).rejects.toMatchObject({ code: 'ELOOP' });
  expect(await store.list()).toEqual([]);
});

test('the state of a build is read for a restore, not if the build is only named', async () => {
  const build = await commit(1, [0]);
  const path = store.path(build.id, BUILD_FILES.state);
  await writeFile(path, 'stale');
  store = await openStore();
  await expect(store.get(build.id)).resolves.toMatchObject({ id: build.id });
  await expect(store.check(build.id)).rejects.toMatchObject({ code: 'build_invalid', path });
});

describe('a damaged build is refused with a sentence that names the file', () => {
  const flipped = async (path: string, at: number) => {
    const bytes = await readFile(path);
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    await writeFile(path, bytes);
  };
  const edited = async (path: string, edit: (manifest: Record<string, unknown>) => void) => {
    const manifest = JSON.parse(await readFile(path, 'utf8'));
    edit(manifest);
    await writeFile(path, JSON.stringify(manifest));
  };

  const cases: [string, BuildFileName, (path: string) => Promise<void>, RegExp][] = [
    ['a truncated diff', 'memfile', (p) => truncate(p, BLOCK_SIZE), /torn/],
    ['a missing state', 'vmstate', (p) => rm(p), /missing/],
    ['a bit flipped in the diff', 'memfile', (p) => flipped(p, 5000), /damaged/],
    ['a bit flipped in the disk', 'disk.img', (p) => flipped(p, 70_000), /damaged/],
    ['a bit flipped in the header', 'memfile.header', (p) => flipped(p, 24), /damaged/],
    ['a header of another build', 'memfile.header', (p) => flipped(p, 40), /belongs to build/],
    ['a missing manifest', 'manifest.json', (p) => rm(p), /missing/],
    ['a torn manifest', 'manifest.json', (p) => truncate(p, 40), /torn/],
    [
      'a manifest of a later version',
      'manifest.json',
      (p) => edited(p, (m) => Object.assign(m, { version: 2 })),
      /format version 2/,
    ],
    [
      'a manifest with an unknown field',
      'manifest.json',
      (p) => edited(p, (m) => Object.assign(m, { extra: 1 })),
      /extra/,
    ],
    [
      'a manifest of another build',
      'manifest.json',
      (p) => edited(p, (m) => Object.assign(m, { id: newBuildId() })),
      /belongs to build/,
    ],
  ];

  test.each(cases)('%s', async (_, file, damage, what) => {
    const build = await commit(1, [0, 1, 2]);
    await damage(store.path(build.id, file));
    store = await openStore();
    const verified = store.verify(build.id);
    await expect(verified).rejects.toThrow(BuildFormatError);
    await expect(store.verify(build.id)).rejects.toThrow(what);
    await expect(store.verify(build.id)).rejects.toThrow(store.path(build.id, file));
  });

  test('a missing ancestor', async () => {
    const parent = await commit(1, [0]);
    const child = await commit(2, [1], parent);
    await rm(dirname(parent.origin), { recursive: true });
    store = await openStore();
    await expect(store.get(child.id)).rejects.toThrow(`names build ${parent.id}, which is missing`);
  });

  test('the manifest parser returns a manifest or a typed error for any input', () => {
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
        expect(() => parseManifest(text, 'manifest.json')).toThrow(BuildFormatError);
      }),
      { numRuns: FUZZ_CASES },
    );
  });
});

describe('collection', () => {
  test('removes what no reference reaches, and keeps ancestors of what one does', async () => {
    const parent = await commit(1, [0, 1]);
    const child = await commit(2, [1], parent);
    const other = await commit(3, [0]);
    await store.references.set('template', 'kept', child.id);
    expect(await store.collect()).toEqual([other.id]);
    expect(await store.list()).toEqual([parent.id, child.id]);
    await store.references.delete('template', 'kept');
    expect(await store.collect()).toEqual([child.id, parent.id]);
    expect(await readdir(join(directory, 'builds'))).toEqual([]);
  });

  test('removes an ancestor of which no block is used', async () => {
    const parent = await commit(1, [0, 1]);
    const child = await commit(2, [0, 1], parent);
    await store.references.set('sandbox', 'sb1', child.id);
    expect(await store.collect()).toEqual([parent.id]);
    expect(await readBlock(child, 0)).toBe(2);
  });

  test('keeps a build while it is in use', async () => {
    const build = await commit(1, [0]);
    {
      using _lease = store.lease(build.id);
      expect(await store.collect()).toEqual([]);
    }
    expect(await store.collect()).toEqual([build.id]);
  });

  test('and a lease of a listed build wait for each other', async () => {
    const build = await commit(1, [0]);
    {
      const leasing = store.leaseListed(build.id);
      const collecting = store.collect();
      using lease = await leasing;
      expect(lease).toBeDefined();
      expect(await collecting).toEqual([]);
    }
    const collecting = store.collect();
    expect(await store.leaseListed(build.id)).toBeUndefined();
    expect(await collecting).toEqual([build.id]);
  });

  test('removes nothing while a referenced build cannot be read', async () => {
    const parent = await commit(1, [0]);
    const child = await commit(2, [1], parent);
    await store.references.set('template', 'kept', child.id);
    await truncate(store.path(child.id, BUILD_FILES.header), 70);
    store = await openStore();
    await expect(store.collect()).rejects.toThrow(BuildFormatError);
    expect(await store.list()).toEqual([parent.id, child.id]);
  });

  test('references survive a restart, and a torn one is named', async () => {
    const build = await commit(1, [0]);
    await store.references.set('template', 'python', build.id);
    store = await openStore();
    expect(store.references.get('template', 'python')).toBe(build.id);
    const path = join(directory, 'references', 'template~python.json');
    await truncate(path, 5);
    await expect(openStore()).rejects.toThrow(path);
  });

  test.each(['', '../evil', 'a/b', 'x'.repeat(129)])('%j names no reference', async (name) => {
    await expect(store.references.set('template', name, newBuildId())).rejects.toThrow(RangeError);
    expect(store.references.all()).toEqual([]);
  });
});

describe('compaction', () => {
  const refer = (id: string) => store.references.set('sandbox', 'compacted', id);

  test('writes one build that reads the same and needs no other', async () => {
    const blocks = Array.from({ length: 40 }, (_, block) => block);
    const parent = await commit(1, blocks);
    const zeroed = await commit(0, blocks.slice(3), parent);
    const child = await commit(2, [1, 201], zeroed);
    const id = (await store.compact(child, refer)) ?? '';
    expect(store.references.get('sandbox', 'compacted')).toBe(id);
    expect(await store.collect()).toEqual([child.id, zeroed.id, parent.id]);
    const fresh = await store.get(id);
    await store.verify(id);
    expect(fresh.header.generation).toBe(0);
    expect(fresh.manifest.parentId).toBeUndefined();
    const read = await Promise.all([0, 1, 2, 3, 200, 201].map((block) => readBlock(fresh, block)));
    expect(read).toEqual([1, 2, 1, 0, 0, 2]);
  });

  test('does not touch a chain that is short and mostly in use', async () => {
    const parent = await commit(1, [0, 1]);
    const child = await commit(2, [1], parent);
    expect(await store.compact(child, refer)).toBeUndefined();
    expect(await store.list()).toEqual([parent.id, child.id]);
    expect(store.references.all()).toEqual([]);
  });

  test('is due for long chains, and for those that are mostly unused', async () => {
    const parent = await commit(1, [0, 1, 2, 3, 4, 5, 6, 7]);
    const child = await commit(2, [1, 2, 3, 4, 5, 6, 7], parent);
    const stored = (id: string) => (id === parent.id ? 8 : 7);
    const { mapping } = child.header;
    expect(needsCompaction(mapping, stored, { maxBuilds: 2, minLiveShare: 0.5 })).toBe(false);
    expect(needsCompaction(mapping, stored, { maxBuilds: 1, minLiveShare: 0.5 })).toBe(true);
    expect(needsCompaction(mapping, stored, { maxBuilds: 2, minLiveShare: 0.6 })).toBe(true);
  });
});

describe('a build', () => {
  test('names the files that it is restored from, those of its ancestors too', async () => {
    const parent = await commit(1, [0]);
    const child = await commit(2, [1], parent);
    const { statePath, memory } = await store.open(child);
    expect(await readFile(statePath, 'utf8')).toBe('state');
    const header = parseMemoryHeader(await readFile(memory.headerPath), { path: 'header' });
    expect(header.mapping.builds.toSorted()).toEqual([parent.id, child.id]);
    const diff = await readFile(memory.diffPaths[parent.id] ?? '');
    expect(diff.equals(Buffer.alloc(BLOCK_SIZE, 1))).toBe(true);
    expect(Object.keys(memory.diffPaths).sort()).toEqual([parent.id, child.id]);
  });

  test('has its disk materialised as a file of its own', async () => {
    const build = await commit(7, [0]);
    const path = join(directory, 'materialised');
    await store.materialise(build, path);
    await truncate(path, 0);
    await store.verify(build.id);
  });

  test('occupies the sum of its files; a missing one counts as 0', async () => {
    const build = await commit(1, [0]);
    const size = await store.size(build.id);
    // Disk, one block of memory, and at least a block for each of manifest, header and state.
    expect(size).toBeGreaterThanOrEqual(2 ** 20 + BLOCK_SIZE);
    await rm(store.path(build.id, BUILD_FILES.disk));
    expect(await store.size(build.id)).toBeLessThanOrEqual(size - 2 ** 20);
    expect(await store.size(newBuildId())).toBe(0);
  });

  test('with a moved disk is discarded with those that share the disk, and no other', async () => {
    const other = await commit(1, [0]);
    const disk = join(directory, 'disk');
    await using staged = await store.stage();
    await writeFile(staged.statePath, 'state');
    await staged.takeDisk(disk);
    await staged.writeMemory({ path: join(directory, 'ram'), blockCount: BLOCKS, holes: 'zero' });
    await staged.publish(DRAFT);
    await store.discardSharingDisk(disk);
    expect(await store.list()).toEqual([other.id]);
    await store.discardSharingDisk(join(directory, 'nothing'));
  });
});

describe('working sets', () => {
  test('are kept with their builds, across restarts', async () => {
    const build = await commit(1, [0]);
    expect(await store.workingSets.get(build.id)).toBeUndefined();
    await Promise.all([1, 2, 3].map((first) => store.workingSets.set(build.id, [first, 16])));
    store = await openStore();
    expect(await store.workingSets.get(build.id)).toEqual([expect.any(Number), 16]);
    await store.references.set('template', 'kept', build.id);
    await store.collect();
    expect(await store.workingSets.get(build.id)).toBeDefined();
    await store.references.delete('template', 'kept');
    expect(await store.collect()).toEqual([build.id]);
    expect(await readdir(join(directory, 'working-sets'))).toEqual([]);
  });

  test('that cannot be read are removed', async () => {
    const id = newBuildId();
    await store.workingSets.set(id, [0, 16]);
    await truncate(join(directory, 'working-sets', `${id}.json`), 5);
    expect(await store.workingSets.get(id)).toBeUndefined();
    expect(await readdir(join(directory, 'working-sets'))).toEqual([]);
  });
});
