import { link, open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { captureMemory } from '../diff/capture.ts';
import type { MemoryReader } from '../diff/memory-reader.ts';
import { applyChanges, type Mapping, zeroMapping } from '../header/mapping.ts';
import { type MemoryHeader, writeMemoryHeader } from '../header/memory-header.ts';
import {
  BUILD_FILES,
  type BuildFileName,
  MANIFEST_VERSION,
  type ManifestFile,
  manifestSchema,
} from '../manifest/manifest.ts';
import type { Build, ManifestDraft, MemoryFile, StagedBuild } from './build-store.ts';
import { formatChecksum } from './checksum.ts';
import { writeLiveBlocks } from './compact.ts';
import { syncPath } from './durable.ts';
import type { StoreLayout } from './layout.ts';
import { checksumOf } from './read-build.ts';
import type { SparseFiles } from './sparse-files.ts';

export interface StagedBuildOptions {
  readonly id: string;
  readonly layout: StoreLayout;
  readonly files: SparseFiles;
  readonly lease: Disposable;
  readonly openMemory: (build: Build) => Promise<MemoryReader & AsyncDisposable>;
}

/** A build in the making, in a directory that is renamed when it is published. */
export class LocalStagedBuild implements StagedBuild {
  readonly id: string;
  readonly #options: StagedBuildOptions;
  readonly #directory: string;
  /** Checksums that are known before the build is published. */
  readonly #checksums = new Map<ManifestFile['name'], string>();
  #published = false;

  /** The directory exists, and is empty. */
  constructor(options: StagedBuildOptions) {
    this.id = options.id;
    this.#options = options;
    this.#directory = options.layout.staging(options.id);
  }

  get statePath(): string {
    return this.#path(BUILD_FILES.state);
  }

  get scratchPath(): string {
    return join(this.#directory, 'scratch');
  }

  async writeMemory({ path, blockCount, holes }: MemoryFile, parent?: Build): Promise<void> {
    const { files, openMemory } = this.#options;
    if (holes === 'unchanged' && parent === undefined) {
      throw new TorporError('internal_error', `The memory of build ${this.id} needs its parent.`);
    }
    await using resources = new AsyncDisposableStack();
    const memory = resources.use(await open(path));
    const output = resources.use(await open(this.#path(BUILD_FILES.memory), 'wx', 0o600));
    const reader = parent && resources.use(await openMemory(parent));
    const source = { memory, blockCount, extents: files.dataExtents(memory), holes };
    const capture = await captureMemory(
      reader === undefined ? source : { ...source, parent: reader },
      output,
    );
    this.#checksums.set(BUILD_FILES.memory, formatChecksum(capture.checksum));
    const before = parent?.header.mapping ?? zeroMapping(blockCount);
    await this.#writeHeader(applyChanges(before, this.id, capture.changes), parent?.header);
  }

  /** Stores all memory of another build, zeros left out, so that the new one names no other. */
  async writeMemoryOf(reader: MemoryReader): Promise<void> {
    const mapping = await writeLiveBlocks(reader, this.#path(BUILD_FILES.memory), this.id);
    await this.#writeHeader(mapping);
  }

  /** Hard links do not cross file systems, and builds may be on one of their own. */
  async takeDisk(path: string): Promise<void> {
    try {
      await link(path, this.#path(BUILD_FILES.disk));
    } catch (error) {
      if (!isErrno(error, 'EXDEV')) throw error;
      await this.copyDisk(path);
    }
  }

  async copyDisk(path: string): Promise<void> {
    await this.#options.files.copySparse(path, this.#path(BUILD_FILES.disk));
  }

  /** Copies a file of another build, whose checksum is known. */
  async copyFileOf(build: Build, { name, crc32 }: ManifestFile): Promise<void> {
    const { files, layout } = this.#options;
    await files.copySparse(layout.file(build.id, name), this.#path(name));
    this.#checksums.set(name, crc32);
  }

  async publish(draft: ManifestDraft): Promise<string> {
    if ((await stat(this.scratchPath).catch(() => undefined)) !== undefined) {
      throw new TorporError('internal_error', `Build ${this.id} still has its temporary file.`);
    }
    const { header, memory, state, disk } = BUILD_FILES;
    const files: ManifestFile[] = [];
    for (const name of [header, memory, state, disk]) {
      const file = await this.#seal(name);
      if (file !== undefined) files.push(file);
    }
    await this.#writeManifest(draft, files);
    const { layout } = this.#options;
    await syncPath(this.#directory);
    await rename(this.#directory, layout.directory(this.id));
    this.#published = true;
    await syncPath(layout.root);
    return this.id;
  }

  /** Removes what was staged and not published. */
  async [Symbol.asyncDispose](): Promise<void> {
    using _lease = this.#options.lease;
    if (!this.#published) await rm(this.#directory, { recursive: true, force: true });
  }

  async #writeHeader(mapping: Mapping, parent?: MemoryHeader): Promise<void> {
    const header = {
      generation: parent === undefined ? 0 : parent.generation + 1,
      buildId: this.id,
      baseBuildId: parent?.baseBuildId ?? this.id,
      mapping,
    };
    const path = this.#path(BUILD_FILES.header);
    await writeFile(path, writeMemoryHeader(header), { mode: 0o600 });
  }

  async #writeManifest(draft: ManifestDraft, files: readonly ManifestFile[]): Promise<void> {
    const manifest = manifestSchema.parse({
      format: 'torpor-build',
      version: MANIFEST_VERSION,
      id: this.id,
      createdAt: new Date().toISOString(),
      ...draft,
      files,
    });
    await using handle = await open(this.#path(BUILD_FILES.manifest), 'wx', 0o600);
    await handle.writeFile(`${JSON.stringify(manifest, undefined, 2)}\n`);
    await handle.sync();
  }

  async #seal(name: ManifestFile['name']): Promise<ManifestFile | undefined> {
    const path = this.#path(name);
    // Only a file that does not exist may be left out: after any other error, the build would
    // lack it.
    const found = await stat(path).catch(ignoreMissing);
    if (found === undefined) return undefined;
    await using handle = await open(path);
    await handle.sync();
    const known = this.#checksums.get(name);
    const crc32 = known ?? (await checksumOf(name, handle, found.size, this.#options.files));
    return { name, size: found.size, crc32 };
  }

  #path(name: BuildFileName): string {
    return join(this.#directory, name);
  }
}

function ignoreMissing(error: unknown): undefined {
  if (!isErrno(error, 'ENOENT')) throw error;
}

function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
