import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { type DiffFile, DiffFileReader, type MemoryReader } from '../diff/memory-reader.ts';
import { BUILD_FILES, type BuildFileName } from '../manifest/manifest.ts';
import { isUuid, newBuildId } from '../uuid.ts';
import type { Build, BuildStore, ManifestDraft, RestoreFiles } from './build-store.ts';
import { needsCompaction } from './compact.ts';
import { syncPath } from './durable.ts';
import { FileReferences } from './file-references.ts';
import { FileWorkingSets } from './file-working-sets.ts';
import { BUILDS_DIRECTORY, StoreLayout } from './layout.ts';
import { Leases } from './leases.ts';
import { checkContent, readBuild, storedBlocks } from './read-build.ts';
import type { SparseFiles } from './sparse-files.ts';
import { LocalStagedBuild } from './staged-build.ts';

/** A collection that new references interrupt this often stops; the next one continues. */
const MAX_COLLECTION_ROUNDS = 10;
/** The unit of st_blocks; stat(2). */
const SECTOR_BYTES = 512;

export interface LocalStoreOptions extends SparseFiles {
  /** Contains `builds/<id>/`, `references/` and `working-sets/`. */
  readonly directory: string;
}

/**
 * The builds of one host, in a local directory.
 *
 * A build is made in a staging directory, checksummed, synced to disk, and renamed into place:
 * it exists completely, or not at all. A crash leaves a staging directory, which the next start
 * removes. Removal renames first, so that an interrupted removal leaves no torn build. One
 * process owns a store at a time.
 */
export class LocalBuildStore implements BuildStore {
  readonly references: FileReferences;
  readonly workingSets: FileWorkingSets;
  readonly #files: SparseFiles;
  readonly #layout: StoreLayout;
  readonly #builds = new Map<string, Build>();
  readonly #leases = new Leases();
  #removing: Promise<unknown> = Promise.resolve();

  private constructor(options: LocalStoreOptions, layout: StoreLayout, references: FileReferences) {
    this.#files = options;
    this.#layout = layout;
    this.references = references;
    this.workingSets = new FileWorkingSets(join(options.directory, 'working-sets'));
  }

  /** Opens a store, making it if need be, and removes what a crash left half-made. */
  static async open(options: LocalStoreOptions): Promise<LocalBuildStore> {
    const layout = new StoreLayout(join(options.directory, BUILDS_DIRECTORY));
    await mkdir(layout.root, { recursive: true, mode: 0o700 });
    for (const name of await readdir(layout.root)) {
      if (layout.isLeftover(name)) {
        await rm(join(layout.root, name), { recursive: true, force: true });
      }
    }
    const references = await FileReferences.open(join(options.directory, 'references'));
    return new LocalBuildStore(options, layout, references);
  }

  async list(): Promise<string[]> {
    return (await readdir(this.#layout.root)).filter(isUuid).sort();
  }

  async get(id: string): Promise<Build> {
    const known = this.#builds.get(id);
    if (known !== undefined) return known;
    const build = await readBuild(this.#layout, id);
    this.#builds.set(id, build);
    return build;
  }

  async check(id: string): Promise<Build> {
    this.#builds.delete(id);
    const build = await this.get(id);
    for (const file of build.manifest.files) {
      if (file.name !== BUILD_FILES.state) continue;
      await checkContent(this.#layout, id, file, this.#files);
    }
    return build;
  }

  async verify(id: string): Promise<void> {
    this.#builds.delete(id);
    const { manifest } = await this.get(id);
    for (const file of manifest.files) await checkContent(this.#layout, id, file, this.#files);
  }

  async size(id: string): Promise<number> {
    let sectors = 0;
    for (const name of Object.values(BUILD_FILES)) {
      sectors += (await stat(this.path(id, name)).catch(() => undefined))?.blocks ?? 0;
    }
    return sectors * SECTOR_BYTES;
  }

  async open({ id, header }: Build): Promise<RestoreFiles> {
    const diffs = header.mapping.builds.map((holder) => {
      return [holder, this.path(holder, BUILD_FILES.memory)] as const;
    });
    return {
      statePath: this.path(id, BUILD_FILES.state),
      memory: {
        headerPath: this.path(id, BUILD_FILES.header),
        diffPaths: Object.fromEntries(diffs),
      },
    };
  }

  async openMemory({ header }: Build): Promise<MemoryReader & AsyncDisposable> {
    await using stack = new AsyncDisposableStack();
    const files: DiffFile[] = [];
    for (const id of header.mapping.builds) {
      const path = this.path(id, BUILD_FILES.memory);
      files.push({ path, handle: stack.use(await open(path)) });
    }
    const owned = stack.move();
    return Object.assign(new DiffFileReader(header.mapping, files), {
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    });
  }

  async materialise({ id }: Build, path: string): Promise<void> {
    await this.#files.copySparse(this.path(id, BUILD_FILES.disk), path);
  }

  async stage(): Promise<LocalStagedBuild> {
    const id = newBuildId();
    await mkdir(this.#layout.staging(id), { mode: 0o700 });
    return new LocalStagedBuild({
      id,
      layout: this.#layout,
      files: this.#files,
      lease: this.lease(id),
      openMemory: (build) => this.openMemory(build),
    });
  }

  async compact(
    build: Build,
    refer: (buildId: string) => Promise<void>,
  ): Promise<string | undefined> {
    using _lease = this.lease(build.id);
    const { mapping } = build.header;
    const stored = await storedBlocks(this.#layout, mapping.builds);
    if (!needsCompaction(mapping, (id) => stored.get(id) ?? 0)) return undefined;
    await using staged = await this.stage();
    await using reader = await this.openMemory(build);
    await staged.writeMemoryOf(reader);
    for (const file of build.manifest.files) {
      const isCopied = file.name === BUILD_FILES.state || file.name === BUILD_FILES.disk;
      if (isCopied) await staged.copyFileOf(build, file);
    }
    await staged.publish(draftWithoutParent(build));
    await refer(staged.id);
    return staged.id;
  }

  discard(id: string): Promise<void> {
    return this.#alone(async () => {
      if (this.references.all().some((reference) => reference.buildId === id)) {
        throw new TorporError('internal_error', `Build ${id} is in use; it cannot be discarded.`);
      }
      if ((await this.list()).includes(id)) await this.#remove(id);
    });
  }

  async discardSharingDisk(path: string): Promise<void> {
    const disk = await stat(path).catch(() => undefined);
    if (disk === undefined || disk.nlink < 2) return;
    for (const id of await this.list()) {
      const other = await stat(this.path(id, BUILD_FILES.disk)).catch(() => undefined);
      if (other?.ino === disk.ino && other.dev === disk.dev) await this.discard(id);
    }
  }

  lease(id: string): Disposable {
    return this.#leases.take(id);
  }

  leaseListed(id: string): Promise<Disposable | undefined> {
    return this.#alone(async () => ((await this.list()).includes(id) ? this.lease(id) : undefined));
  }

  collect(): Promise<readonly string[]> {
    return this.#alone(async () => {
      const removed = await this.#collect();
      await this.workingSets.retain(new Set(await this.list()));
      return removed;
    });
  }

  /**
   * The path of a file of a build. For tests that damage or measure it; other callers use the
   * methods above.
   */
  path(id: string, name: BuildFileName): string {
    return this.#layout.file(id, name);
  }

  /** One removal at a time, and nothing that depends on what there is beside it. */
  #alone<T>(action: () => Promise<T>): Promise<T> {
    const run = this.#removing.then(action);
    this.#removing = run.catch(() => undefined);
    return run;
  }

  async #collect(): Promise<readonly string[]> {
    const removed: string[] = [];
    for (let round = 0; round < MAX_COLLECTION_ROUNDS; round++) {
      const ids = await this.list();
      const reached = await this.#reached(new Set(ids));
      // Roots added while headers are read or builds removed may reach builds that were about
      // to be removed.
      const isCurrent = () => this.#roots().every((root) => reached.has(root));
      // Newest first: if this is interrupted, every remaining build has its ancestors.
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
    return [...this.references.all().map((reference) => reference.buildId), ...this.#leases.ids()];
  }

  async #remove(id: string): Promise<void> {
    this.#builds.delete(id);
    const trash = this.#layout.trash(id);
    await rename(this.#layout.directory(id), trash);
    await syncPath(this.#layout.root);
    await rm(trash, { recursive: true, force: true });
  }
}

function draftWithoutParent({ manifest }: Build): ManifestDraft {
  const { producer, vcpus, memoryMiB, diskMiB, artifacts, sandboxId } = manifest;
  const draft = { producer, vcpus, memoryMiB, diskMiB, artifacts };
  return sandboxId === undefined ? draft : { ...draft, sandboxId };
}
