import type { FileHandle } from 'node:fs/promises';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { TorporError } from '@torpor/protocol';
import type { Extent } from '../diff/capture.ts';
import { type DiffFile, MemoryReader } from '../diff/memory-reader.ts';
import { BuildFormatError } from '../errors.ts';
import { BLOCK_SIZE } from '../header/mapping.ts';
import { type MemoryHeader, parseMemoryHeader } from '../header/memory-header.ts';
import {
  BUILD_FILES,
  type Manifest,
  type ManifestFile,
  manifestSchema,
  parseManifest,
} from '../manifest/manifest.ts';
import { isUuid, newBuildId } from '../uuid.ts';
import { checksumFile, checksumSparse, formatChecksum } from './checksum.ts';
import { syncPath } from './durable.ts';
import { References } from './references.ts';

const STAGING = '.staging-';
const TRASH = '.trash-';
/** A collection that new references interrupt this often leaves the rest to the next. */
const MAX_COLLECTION_ROUNDS = 10;

export interface StoreOptions {
  /** Holds `builds/<id>/` and `references/`. */
  readonly directory: string;
  /** Parts of a file that are no holes; bytes, in order. */
  readonly dataExtents: (file: FileHandle) => Iterable<Extent>;
}

/** A published build: immutable. */
export interface Build {
  readonly id: string;
  readonly directory: string;
  readonly manifest: Manifest;
  readonly header: MemoryHeader;
}

/** What is said of a build when it is published; the store adds the rest. */
export type ManifestDraft = Omit<Manifest, 'format' | 'version' | 'id' | 'createdAt' | 'files'>;

/**
 * The builds of one machine.
 *
 * A build is made in a staging directory, checksummed, synced to disk, and renamed
 * into place: it is there whole, or not at all. A crash leaves a staging directory,
 * which the next start removes. Removal renames first, so that a torn removal is no
 * torn build. One process owns a store at a time.
 */
export class BuildStore {
  readonly references: References;
  readonly #options: StoreOptions;
  readonly #root: string;
  readonly #builds = new Map<string, Build>();
  readonly #leases = new Map<string, number>();
  #collecting: Promise<unknown> = Promise.resolve();

  private constructor(options: StoreOptions, root: string, references: References) {
    this.#options = options;
    this.#root = root;
    this.references = references;
  }

  /** Opens a store, making it if need be, and removes what a crash left half-made. */
  static async open(options: StoreOptions): Promise<BuildStore> {
    const root = join(options.directory, 'builds');
    await mkdir(root, { recursive: true, mode: 0o700 });
    for (const name of await readdir(root)) {
      if (name.startsWith(STAGING) || name.startsWith(TRASH)) {
        await rm(join(root, name), { recursive: true, force: true });
      }
    }
    const references = await References.open(join(options.directory, 'references'));
    return new BuildStore(options, root, references);
  }

  /** Ids of all published builds, sound or not, oldest first. */
  async list(): Promise<string[]> {
    return (await readdir(this.#root)).filter(isUuid).sort();
  }

  /**
   * Opens a build: manifest, sizes, header, and the diff files of all ancestors are
   * checked; contents are checked by {@link verify} only. Throws BuildFormatError.
   */
  async get(id: string): Promise<Build> {
    const known = this.#builds.get(id);
    if (known !== undefined) return known;
    const build = await this.#load(id);
    this.#builds.set(id, build);
    return build;
  }

  /**
   * As {@link get}, looking at the files anew: a build may have been damaged since it was
   * opened. The state, which is small and all of which a restore needs, is read entirely.
   */
  async check(id: string): Promise<Build> {
    this.#builds.delete(id);
    const build = await this.get(id);
    for (const file of build.manifest.files) {
      if (file.name === BUILD_FILES.state) await this.#checkContent(id, file);
    }
    return build;
  }

  /**
   * Begins a new build. Dispose of it to give up what was not published; until then it
   * is leased, so what is published must be referenced before that, or be collected.
   */
  async stage(): Promise<StagedBuild> {
    const id = newBuildId();
    const directory = join(this.#root, `${STAGING}${id}`);
    await mkdir(directory, { mode: 0o700 });
    return new StagedBuild(id, directory, join(this.#root, id), this.#options, this.lease(id));
  }

  /** Removes a build that nothing needs. Throws `internal_error` if something refers to it. Idempotent. */
  discard(id: string): Promise<void> {
    return this.#alone(async () => {
      if (this.references.all().some((reference) => reference.buildId === id)) {
        throw new TorporError('internal_error', `Build ${id} is in use; it cannot be discarded.`);
      }
      if ((await this.list()).includes(id)) await this.#remove(id);
    });
  }

  /**
   * A lease of a build that is known only from {@link list}; undefined if it is gone. What
   * a collection has begun to remove is waited for.
   */
  leaseListed(id: string): Promise<Disposable | undefined> {
    return this.#alone(async () => ((await this.list()).includes(id) ? this.lease(id) : undefined));
  }

  /** Keeps a build and its ancestors from collection while it is in use without a reference. */
  lease(id: string): Disposable {
    this.#leases.set(id, (this.#leases.get(id) ?? 0) + 1);
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        const left = (this.#leases.get(id) ?? 1) - 1;
        if (left === 0) this.#leases.delete(id);
        else this.#leases.set(id, left);
      },
    };
  }

  /** The diff files of a build's mapping, open; close them by disposing. */
  async openMemory(build: Build): Promise<MemoryReader & AsyncDisposable> {
    await using stack = new AsyncDisposableStack();
    const files: DiffFile[] = [];
    for (const id of build.header.mapping.builds) {
      const path = this.path(id, BUILD_FILES.memory);
      files.push({ path, handle: stack.use(await open(path)) });
    }
    const owned = stack.move();
    return Object.assign(new MemoryReader(build.header.mapping, files), {
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    });
  }

  path(id: string, file: string): string {
    return join(this.#root, id, file);
  }

  /**
   * Reads a build back entirely and compares checksums. Throws BuildFormatError for
   * the first file that is damaged.
   */
  async verify(id: string): Promise<void> {
    this.#builds.delete(id);
    const { manifest } = await this.get(id);
    for (const file of manifest.files) await this.#checkContent(id, file);
  }

  async #checkContent(id: string, file: ManifestFile): Promise<void> {
    const path = this.path(id, file.name);
    await using handle = await open(path);
    const actual = await this.#checksum(file.name, handle, file.size);
    if (actual !== file.crc32) {
      throw new BuildFormatError(path, `damaged: CRC-32 ${actual}, where it was ${file.crc32}`);
    }
  }

  /**
   * Removes every build that no reference and no lease reaches, directly or as an
   * ancestor. A build that cannot be read keeps all others from removal, because what
   * it names is not known: collection then throws BuildFormatError.
   */
  collect(): Promise<readonly string[]> {
    return this.#alone(() => this.#collect());
  }

  /** One removal at a time, and nothing that depends on what there is beside it. */
  #alone<T>(action: () => Promise<T>): Promise<T> {
    const run = this.#collecting.then(action);
    this.#collecting = run.catch(() => undefined);
    return run;
  }

  async #collect(): Promise<readonly string[]> {
    const removed: string[] = [];
    for (let round = 0; round < MAX_COLLECTION_ROUNDS; round++) {
      const ids = await this.list();
      const reached = await this.#reached(new Set(ids));
      // Roots that come while headers are read or builds removed may reach what was to go.
      const isCurrent = () => this.#roots().every((root) => reached.has(root));
      // Newest first: if this ends halfway, no build is left without an ancestor.
      for (const id of ids.toReversed()) {
        if (reached.has(id)) continue;
        if (!isCurrent()) break;
        await this.#remove(id);
        removed.push(id);
      }
      if (isCurrent()) break;
    }
    return removed;
  }

  async #reached(ids: ReadonlySet<string>): Promise<Set<string>> {
    const reached = new Set<string>();
    for (const root of this.#roots()) {
      reached.add(root);
      if (!ids.has(root)) continue;
      for (const ancestor of (await this.get(root)).header.mapping.builds) reached.add(ancestor);
    }
    return reached;
  }

  #roots(): string[] {
    return [...this.references.all().map((reference) => reference.buildId), ...this.#leases.keys()];
  }

  async #remove(id: string): Promise<void> {
    this.#builds.delete(id);
    const trash = join(this.#root, `${TRASH}${id}`);
    await rename(join(this.#root, id), trash);
    await syncPath(this.#root);
    await rm(trash, { recursive: true, force: true });
  }

  async #load(id: string): Promise<Build> {
    const directory = join(this.#root, id);
    const manifestPath = join(directory, BUILD_FILES.manifest);
    const manifest = parseManifest(await readText(manifestPath, id), manifestPath);
    if (manifest.id !== id) {
      throw new BuildFormatError(manifestPath, `says that it is build ${manifest.id}`);
    }
    for (const file of manifest.files) await checkSize(join(directory, file.name), file);
    const header = await this.#loadHeader(directory, manifest);
    return { id, directory, manifest, header };
  }

  async #loadHeader(directory: string, manifest: Manifest): Promise<MemoryHeader> {
    const path = join(directory, BUILD_FILES.header);
    const bytes = await readFile(path);
    const sizes = new Map<string, number>();
    for (const id of parseMemoryHeader(bytes, { path }).mapping.builds) {
      const size = await stat(this.path(id, BUILD_FILES.memory)).catch(() => undefined);
      if (size !== undefined) sizes.set(id, Math.floor(size.size / BLOCK_SIZE));
    }
    const header = parseMemoryHeader(bytes, { path, storedBlocks: (id) => sizes.get(id) });
    if (header.buildId !== manifest.id) {
      throw new BuildFormatError(path, `belongs to build ${header.buildId}`);
    }
    if (header.mapping.blockCount * BLOCK_SIZE !== manifest.memoryMiB * 2 ** 20) {
      throw new BuildFormatError(path, 'maps another size of RAM than the manifest says');
    }
    const recorded = manifest.files.find((file) => file.name === BUILD_FILES.header);
    const actual = formatChecksum(crc32(bytes));
    if (recorded !== undefined && recorded.crc32 !== actual) {
      throw new BuildFormatError(path, `damaged: CRC-32 ${actual}, where it was ${recorded.crc32}`);
    }
    return header;
  }

  #checksum(name: string, handle: FileHandle, size: number): Promise<string> {
    if (name !== BUILD_FILES.disk) return checksumFile(handle);
    return checksumSparse(handle, size, this.#options.dataExtents(handle));
  }
}

async function readText(path: string, id: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new BuildFormatError(path, `build ${id} is missing or unreadable: ${String(error)}`);
  }
}

async function checkSize(path: string, file: ManifestFile): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) throw new BuildFormatError(path, 'missing');
  if (found.size !== file.size) {
    throw new BuildFormatError(path, `torn: ${found.size} bytes, where it had ${file.size}`);
  }
}

/** A build in the making. */
export class StagedBuild implements AsyncDisposable {
  readonly id: string;
  readonly #directory: string;
  readonly #target: string;
  readonly #options: StoreOptions;
  readonly #lease: Disposable;
  #published = false;

  constructor(
    id: string,
    directory: string,
    target: string,
    options: StoreOptions,
    lease: Disposable,
  ) {
    this.#lease = lease;
    this.id = id;
    this.#directory = directory;
    this.#target = target;
    this.#options = options;
  }

  /**
   * Where something that is needed only while the build is made may lie: on the same file
   * system, and gone with the staging directory after a crash. Whoever makes it removes it
   * before the build is published; {@link publish} throws `internal_error` otherwise.
   */
  get scratchPath(): string {
    return join(this.#directory, 'scratch');
  }

  /** Where a file of the build is to be written. */
  path(file: (typeof BUILD_FILES)[keyof typeof BUILD_FILES]): string {
    return join(this.#directory, file);
  }

  /**
   * Makes the build durable and visible, whole. `checksums` are those that the
   * caller knows already, by file name; the others are computed. Nothing that the
   * build was made from may be destroyed before this resolves.
   */
  async publish(draft: ManifestDraft, checksums: Record<string, string> = {}): Promise<string> {
    if ((await stat(this.scratchPath).catch(() => undefined)) !== undefined) {
      throw new TorporError('internal_error', `Build ${this.id} still has what it was made from.`);
    }
    const files: ManifestFile[] = [];
    for (const name of [
      BUILD_FILES.header,
      BUILD_FILES.memory,
      BUILD_FILES.state,
      BUILD_FILES.disk,
    ] as const) {
      const file = await this.#seal(name, checksums[name]);
      if (file !== undefined) files.push(file);
    }
    const manifest = manifestSchema.parse({
      format: 'torpor-build',
      version: 1,
      id: this.id,
      createdAt: new Date().toISOString(),
      ...draft,
      files,
    });
    {
      await using handle = await open(this.path(BUILD_FILES.manifest), 'wx', 0o600);
      await handle.writeFile(`${JSON.stringify(manifest, undefined, 2)}\n`);
      await handle.sync();
    }
    await syncPath(this.#directory);
    await rename(this.#directory, this.#target);
    this.#published = true;
    await syncPath(join(this.#target, '..'));
    return this.id;
  }

  /** Removes what was staged and not published. */
  async [Symbol.asyncDispose](): Promise<void> {
    using _lease = this.#lease;
    if (!this.#published) await rm(this.#directory, { recursive: true, force: true });
  }

  async #seal(name: ManifestFile['name'], known: string | undefined) {
    const path = this.path(name);
    // Only what is not there may be left out: whatever else is wrong with a file, the build would lack it.
    const found = await stat(path).catch(ignoreMissing);
    if (found === undefined) return undefined;
    await using handle = await open(path);
    await handle.sync();
    if (known !== undefined) return { name, size: found.size, crc32: known };
    const checksum =
      name === BUILD_FILES.disk
        ? await checksumSparse(handle, found.size, this.#options.dataExtents(handle))
        : await checksumFile(handle);
    return { name, size: found.size, crc32: checksum };
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}
