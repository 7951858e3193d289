/*
 * Tests with virtual machines spend most of their time on boots. A host agent keeps the first
 * boot of each shape as a build in its data directory (docs/architecture.md); this module passes
 * these builds from the data directory of one test file to the next, through the cache:
 *
 *   CACHE/test-boots/KEY/builds/ID/                 builds, linked: they are never written to
 *   CACHE/test-boots/KEY/references/template~boot-… their names in the agent
 *
 * The agent's name for a kept boot contains a digest of all that the guest's memory depends on:
 * kernel, initramfs, agent drive, image, VMM, accelerator, shape. KEY is a digest of the
 * sources that create builds and command lines of VMMs, which have no version number.
 */
import { createHash } from 'node:crypto';
import {
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  utimes,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { copySparse } from '@torpor/linux';

const PACKAGES = fileURLToPath(new URL('../../../', import.meta.url));
const SOURCES = ['agent', 'builds', 'envd', 'images', 'linux', 'pager', 'protocol', 'vmm'] as const;
const BOOT_REFERENCE = /^template~boot-[0-9a-f]+\.json$/;
/** Boots of other sources are removed when they have not been used for this long. */
const UNUSED_AFTER_MS = 24 * 3_600_000;

/** The shape of a machine, as in a build's manifest. */
export interface Shape {
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
}

type BootManifest = Shape & { readonly createdAt: string };
const SHAPE_FIELDS = ['vcpus', 'memoryMiB', 'diskMiB'] as const;

/** A data directory of a test file. Disposing of it removes it, so stop its users first. */
export interface TestDataDir extends AsyncDisposable {
  readonly path: string;
}

/**
 * A data directory in which the first sandbox of each shape is restored from a boot that
 * another test file kept, if there is one. Its own kept boots are shared with other files.
 * Tests that are about booting use {@link temporaryDirectory}.
 */
export async function openDataDirWithBoots(
  cacheDir: string,
  ...shapes: readonly Shape[]
): Promise<TestDataDir> {
  await using stack = new AsyncDisposableStack();
  const { path } = stack.use(await temporaryDirectory('torpor-boots-'));
  const store = join(cacheDir, 'test-boots', await sourcesKey());
  for (const shape of shapes) await takeBoot(store, path, shape);
  stack.defer(() => shareBoots(path, store));
  const moved = stack.move();
  return { path, [Symbol.asyncDispose]: () => moved.disposeAsync() };
}

/** A directory that lasts as long as the test. */
async function temporaryDirectory(prefix: string): Promise<TestDataDir> {
  const path = await mkdtemp(join(tmpdir(), prefix));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** Takes the newest boot: with a new VMM, the shape has been booted again under another name. */
async function takeBoot(store: string, dataDir: string, shape: Shape): Promise<void> {
  try {
    const found = await Promise.all(
      (await boots(store)).map(async (name) => ({ name, manifest: await manifestOf(store, name) })),
    );
    const newest = found
      .filter(({ manifest }) => SHAPE_FIELDS.every((field) => manifest[field] === shape[field]))
      .sort((a, b) => b.manifest.createdAt.localeCompare(a.manifest.createdAt))
      .at(0);
    if (newest !== undefined) await copyBoot(store, dataDir, newest.name);
  } catch (error) {
    // Another run has removed it meanwhile, so this one boots.
    if (!isMissing(error)) throw error;
  }
}

async function manifestOf(root: string, reference: string): Promise<BootManifest> {
  const path = join(root, 'builds', await buildIdOf(root, reference), 'manifest.json');
  return JSON.parse(await readFile(path, 'utf8')) as BootManifest;
}

async function buildIdOf(root: string, reference: string): Promise<string> {
  const text = await readFile(join(root, 'references', reference), 'utf8');
  return (JSON.parse(text) as { buildId: string }).buildId;
}

async function shareBoots(dataDir: string, store: string): Promise<void> {
  const known = new Set(await boots(store));
  const made = (await boots(dataDir)).filter((name) => !known.has(name));
  for (const name of made) await copyBoot(dataDir, store, name);
  if (made.length === 0 && known.size === 0) return;
  const now = new Date();
  await utimes(store, now, now);
  await removeUnused(dirname(store));
}

/** The references of a data directory, or of the store, that name kept boots. */
async function boots(root: string): Promise<string[]> {
  const names = await readdir(join(root, 'references')).catch(() => []);
  return names.filter((name) => BOOT_REFERENCE.test(name));
}

/** Copies the complete build before the reference that names it. */
async function copyBoot(from: string, to: string, reference: string): Promise<void> {
  const buildId = await buildIdOf(from, reference);
  await copyWhole(join(from, 'builds', buildId), join(to, 'builds', buildId));
  await copyWhole(join(from, 'references', reference), join(to, 'references', reference));
}

/** Copies atomically: to a temporary name, which is then renamed. Does nothing if the target exists. */
async function copyWhole(from: string, to: string): Promise<void> {
  const parent = dirname(to);
  await mkdir(parent, { recursive: true, mode: 0o700 });
  const staging = await mkdtemp(join(parent, '.copy-'));
  try {
    const copy = join(staging, 'copy');
    if ((await stat(from)).isDirectory()) {
      await mkdir(copy, { mode: 0o700 });
      for (const name of await readdir(from)) await linkOrCopy(join(from, name), join(copy, name));
    } else {
      await linkOrCopy(from, copy);
    }
    await rename(copy, to).catch((error: unknown) => {
      if (!isCode(error, 'ENOTEMPTY') && !isCode(error, 'EEXIST')) throw error;
    });
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  await link(from, to).catch(async (error: unknown) => {
    if (!isCode(error, 'EXDEV')) throw error;
    await copySparse(from, to);
  });
}

async function removeUnused(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    const path = join(root, name);
    const { mtimeMs } = await stat(path);
    if (Date.now() - mtimeMs > UNUSED_AFTER_MS) await rm(path, { recursive: true, force: true });
  }
}

async function sourcesKey(): Promise<string> {
  const hash = createHash('sha256');
  for (const name of SOURCES) {
    const folder = join(PACKAGES, name, 'src');
    const files = await readdir(folder, { recursive: true });
    for (const file of files.filter(isProductionSource).sort()) {
      hash
        .update(`${name}/${file}\0`)
        .update(await readFile(join(folder, file)))
        .update('\0');
    }
  }
  return hash.digest('hex').slice(0, 24);
}

function isProductionSource(file: string): boolean {
  return /\.(?:ts|c)$/.test(file) && !/(?:\.test\.ts|(?:^|\/)testing(?:\/.*|\.ts))$/.test(file);
}

function isMissing(error: unknown): boolean {
  return isCode(error, 'ENOENT');
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
