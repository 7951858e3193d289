import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { ignoreMissing, runCommand } from '@torpor/linux';
import { requireTool } from '../required-tools.ts';
import { withoutSignature } from './module-signature.ts';
import { moduleName, readModuleInfo } from './modules.ts';

/**
 * The parts of the kernel's tree whose modules guests get: file systems, networks, netfilter
 * and the features that containers use. Drivers of devices that no microVM has are left out,
 * which halves the 110 MB.
 */
export const GUEST_MODULE_DIRECTORIES = [
  'arch',
  'block',
  'crypto',
  'fs',
  'lib',
  'mm',
  'net',
  'drivers/block',
  'drivers/char',
  'drivers/md',
  'drivers/net',
  'drivers/vhost',
  'drivers/virtio',
] as const;
const LEFT_OUT = ['drivers/net/ethernet', 'drivers/net/wwan'] as const;

/** The distribution's files that depmod reads. */
const DEPMOD_INPUTS = ['modules.builtin', 'modules.builtin.modinfo', 'modules.order'];
/** Files per call of xz. */
const XZ_BATCH = 200;

export interface ModuleTree {
  /** The directory with `kernel/`, `modules.dep` etc.: the contents of /lib/modules/RELEASE. */
  readonly directory: string;
  /** Where the modules are, by name. */
  readonly paths: ReadonlyMap<string, string>;
}

/**
 * Copies the modules for guests, and those that they depend on, to
 * `target/lib/modules/RELEASE`, and indexes them for modprobe. They are neither packed nor
 * signed: unpacking one, or checking its signature, costs an emulated guest as much as loading
 * it. The source is unpacked in place.
 */
export async function makeModuleTree(
  source: string,
  target: string,
  release: string,
): Promise<ModuleTree> {
  const packed = await findModules(source);
  await unpackXz(source, [...packed.values()]);
  const paths = new Map<string, string>();
  const directory = join(target, 'lib', 'modules', release);
  const add = async (name: string): Promise<void> => {
    const entry = packed.get(name);
    // Without a module it is built into the kernel.
    if (entry === undefined || paths.has(name)) return;
    const bytes = withoutSignature(await readModule(join(source, entry)));
    const path = join(directory, entry.replace(/\.(?:xz|zst|gz)$/, ''));
    paths.set(name, path);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, bytes, { mode: 0o644 });
    for (const dependency of readModuleInfo(bytes).dependencies) await add(dependency);
  };
  for (const [name, entry] of packed) if (isForGuests(entry)) await add(name);
  for (const name of DEPMOD_INPUTS) {
    const text = await readFile(join(source, name)).catch(ignoreMissing);
    if (text !== undefined) await writeFile(join(directory, name), text, { mode: 0o644 });
  }
  await runCommand(await requireTool('depmod'), ['-b', target, release]);
  return { directory, paths };
}

/** Whether a module is for guests; by its path below the directory of its release. */
export function isForGuests(path: string): boolean {
  const isBelow = (directory: string) => path.startsWith(`kernel/${directory}/`);
  return GUEST_MODULE_DIRECTORIES.some(isBelow) && !LEFT_OUT.some(isBelow);
}

/** Paths of all modules below a directory, by name. */
async function findModules(directory: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const entry of (await readdir(directory, { recursive: true })).sort()) {
    const match = /^(.+)\.ko(?:\.xz|\.zst|\.gz)?$/.exec(basename(entry));
    if (match?.[1] !== undefined) found.set(moduleName(match[1]), entry);
  }
  return found;
}

/** Node cannot unpack xz, and running the program once per module would take long. */
async function unpackXz(directory: string, entries: readonly string[]): Promise<void> {
  const packed = entries.filter((entry) => entry.endsWith('.xz'));
  for (let at = 0; at < packed.length; at += XZ_BATCH) {
    await runCommand('xz', ['--decompress', '--', ...packed.slice(at, at + XZ_BATCH)], {
      cwd: directory,
    });
  }
}

async function readModule(path: string): Promise<Buffer> {
  if (path.endsWith('.xz')) return readFile(path.slice(0, -'.xz'.length));
  const bytes = await readFile(path);
  if (path.endsWith('.zst')) return zstdDecompressSync(bytes);
  return path.endsWith('.gz') ? gunzipSync(bytes) : bytes;
}
