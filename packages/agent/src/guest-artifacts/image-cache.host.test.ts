import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { currentKeys, findGuestKernel, registerCacheUser } from '@torpor/images';
import { ENVD_ENTRY } from '@torpor/testkit/guests';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openImageStore, pruneCache } from './image-cache.ts';

/*
 * What a build, a sandbox, a program or another server refers to is never removed. Each
 * test has one thing that keeps one artefact; the others go.
 */

let root: string;
let cacheDir: string;
let dataDir: string;
let count = 0;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'torpor-prune-cache-'));
  cacheDir = join(root, 'cache');
  dataDir = await directory('data');
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function directory(name: string): Promise<string> {
  const path = join(root, name);
  await mkdir(path, { recursive: true });
  return path;
}

/** A published artefact; returns the path of its file. */
async function artifact(kind: string, file = 'agent.ext4'): Promise<string> {
  count += 1;
  const path = join(cacheDir, kind, count.toString(16).padStart(24, '0'));
  await mkdir(path, { recursive: true });
  await writeFile(join(path, file), Buffer.alloc(8192, 1));
  return join(path, file);
}

/** A version of an image, which its name means until the next is made. */
async function imageVersion(name: string): Promise<string> {
  const path = await artifact(`images/${name}`, 'rootfs.ext4');
  const key = keyOf(path);
  const manifest = { format: 1, name, key, createdAt: '2026-01-02T03:04:05.000Z' };
  await writeFile(join(path, '..', 'manifest.json'), JSON.stringify(manifest));
  const pointer = JSON.stringify({ format: 1, key });
  await writeFile(join(cacheDir, 'images', name, 'current.json'), pointer);
  return path;
}

/** The kernel that guests boot, without its large files: keys need its manifest and modules only. Returns its key. */
async function guestKernel(): Promise<string> {
  const source = await findGuestKernel(process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor');
  if (source === undefined) throw new Error('There is no guest kernel: `npm test` makes it.');
  const key = keyOf(source.vmlinuxPath);
  await cp(dirname(source.vmlinuxPath), join(cacheDir, 'kernels', key), {
    recursive: true,
    filter: (path) => !/\/vmlinu[xz]$|\.ko$/.test(path),
  });
  return key;
}

function keyOf(path: string): string {
  return basename(join(path, '..'));
}

async function build(inDirectory: string, manifest: string): Promise<void> {
  const path = join(inDirectory, 'builds', '019a0000-0000-7000-8000-000000000001');
  await mkdir(path, { recursive: true });
  await writeFile(join(path, 'manifest.json'), manifest);
}

/** Keys that are left of a kind. */
async function left(kind: string): Promise<string[]> {
  return (await readdir(join(cacheDir, kind))).filter((name) => /^[0-9a-f]{24}$/.test(name));
}

test('what no build refers to goes, of every kind, and is told with its size', async () => {
  const [old, used] = [await artifact('agent-drives'), await artifact('agent-drives')];
  const [oldInitramfs, usedInitramfs] = [await artifact('initramfs'), await artifact('initramfs')];
  const [oldImage, usedImage, currentImage] = [
    await imageVersion('base'),
    await imageVersion('base'),
    await imageVersion('base'),
  ];
  const artifacts = { base: usedImage, agent: used, initramfs: usedInitramfs };
  await build(dataDir, JSON.stringify({ artifacts }));
  const told = await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: true });
  expect(await left('agent-drives')).toHaveLength(2);
  const pruned = await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false });
  expect(pruned).toEqual(told);
  expect(pruned.map(({ path }) => basename(path))).toEqual(
    [old, oldInitramfs, oldImage].map(keyOf),
  );
  for (const { bytes } of pruned) expect(bytes).toBeGreaterThanOrEqual(8192);
  expect(await left('agent-drives')).toEqual([keyOf(used)]);
  expect(await left('initramfs')).toEqual([keyOf(usedInitramfs)]);
  expect((await left('images/base')).sort()).toEqual([usedImage, currentImage].map(keyOf).sort());
});

test('a build keeps what it names under another name of the cache, and in a damaged manifest', async () => {
  const used = await artifact('agent-drives');
  await build(dataDir, `{"artifacts":{"agent":"/elsewhere/agent-drives/${keyOf(used)}/agent.ext4"`);
  expect(await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false })).toEqual(
    [],
  );
});

test('a manifest that cannot be read keeps everything', async () => {
  await artifact('agent-drives');
  const path = join(dataDir, 'builds', '019a0000-0000-7000-8000-000000000001');
  await mkdir(join(path, 'manifest.json'), { recursive: true });
  await expect(
    pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false }),
  ).rejects.toThrow('EISDIR');
  expect(await left('agent-drives')).toHaveLength(1);
});

test('a build of another data directory that uses the cache keeps what it names', async () => {
  const [used, started] = [await artifact('agent-drives'), await artifact('agent-drives')];
  const other = await directory('other');
  await build(other, JSON.stringify({ artifacts: { agent: used } }));
  await registerCacheUser(cacheDir, { dataDir: other, keys: [keyOf(started)] });
  expect(await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false })).toEqual(
    [],
  );
  await rm(other, { recursive: true });
  expect(
    await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false }),
  ).toHaveLength(2);
});

test('a sandbox keeps what its record names', async () => {
  const used = await artifact('agent-drives');
  const sandbox = await directory('data/sandboxes/sb1');
  await writeFile(join(sandbox, 'sandbox.json'), JSON.stringify({ machine: { drive: used } }));
  expect(await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false })).toEqual(
    [],
  );
});

test('a running program keeps what its arguments name', async () => {
  const used = await artifact('agent-drives');
  const program = spawn('tail', ['--follow', used], { stdio: 'ignore' });
  try {
    await once(program, 'spawn');
    expect(
      await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false }),
    ).toEqual([]);
  } finally {
    program.kill('SIGKILL');
    await once(program, 'exit');
  }
  expect(
    await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false }),
  ).toHaveLength(1);
});

test('what the next sandbox of this version needs stays', async () => {
  const kernel = await guestKernel();
  const keys = await currentKeys({ cacheDir, envdEntry: ENVD_ENTRY });
  expect(keys).toHaveLength(3);
  expect(keys).toContain(kernel);
  const [initramfs = '', drive = ''] = keys.filter((key) => key !== kernel);
  await mkdir(join(cacheDir, 'initramfs', initramfs), { recursive: true });
  await mkdir(join(cacheDir, 'agent-drives', drive), { recursive: true });
  expect(await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun: false })).toEqual(
    [],
  );
  expect(await left('kernels')).toEqual([kernel]);
  expect(await left('initramfs')).toEqual([initramfs]);
  expect(await left('agent-drives')).toEqual([drive]);
});

test('an image that only a build needs is not removed by its name', async () => {
  const path = await imageVersion('base');
  await build(dataDir, JSON.stringify({ artifacts: { base: path } }));
  const store = openImageStore(cacheDir, dataDir);
  await expect(store.remove('base')).rejects.toMatchObject({ code: 'conflict' });
});
