import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { computeKey, ensureArtifact, listArtifacts } from './artifact-cache.ts';
import { pruneGuestArtifacts } from './prune.ts';

const KINDS = ['agent-drives', 'kernels', 'initramfs'];

let cacheDir: string;

beforeEach(async () => {
  cacheDir = await mkdtemp(join(tmpdir(), 'torpor-prune-'));
});
afterEach(() => rm(cacheDir, { recursive: true, force: true }));

function make(kind: string, name: string): Promise<string> {
  return ensureArtifact({
    directory: join(cacheDir, kind),
    key: computeKey({ kind, name }),
    build: (staging) => writeFile(join(staging, 'file'), Buffer.alloc(100_000, 1)),
  });
}

async function present(): Promise<string[]> {
  const keys = await Promise.all(KINDS.map((kind) => listArtifacts(join(cacheDir, kind))));
  return keys.flat().sort();
}

test('artefacts of every kind that are needed are kept; the others are removed, with their sizes', async () => {
  const needed = await Promise.all(KINDS.map((kind) => make(kind, 'needed')));
  const old = await Promise.all(KINDS.map((kind) => make(kind, 'old')));
  const keys = new Set(needed.map((path) => basename(path)));
  const pruned = await pruneGuestArtifacts({ cacheDir, isNeeded: (key) => keys.has(key) });
  expect(pruned.map(({ path }) => path).sort()).toEqual(old.sort());
  for (const { bytes } of pruned) expect(bytes).toBeGreaterThanOrEqual(100_000);
  expect(await present()).toEqual([...keys].sort());
});

test('a dry run returns the same and removes nothing', async () => {
  await Promise.all(KINDS.map((kind) => make(kind, 'old')));
  const before = await present();
  const told = await pruneGuestArtifacts({ cacheDir, isNeeded: () => false, dryRun: true });
  expect(await present()).toEqual(before);
  expect(await pruneGuestArtifacts({ cacheDir, isNeeded: () => false })).toEqual(told);
  expect(await present()).toEqual([]);
});

test('an empty cache has nothing to remove', async () => {
  expect(await pruneGuestArtifacts({ cacheDir, isNeeded: () => false })).toEqual([]);
});
