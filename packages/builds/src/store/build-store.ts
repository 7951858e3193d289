import type { MemoryReader } from '../diff/memory-reader.ts';
import type { MemoryHeader } from '../header/memory-header.ts';
import type { Manifest } from '../manifest/manifest.ts';

/**
 * A store of builds, independent of where it keeps their bytes. Only the store knows the files
 * of a build; callers request what they need. `LocalBuildStore` keeps builds in a directory of
 * this host.
 */
export interface BuildStore {
  readonly references: References;
  readonly workingSets: WorkingSets;

  /** Ids of all published builds, valid or not, oldest first. */
  list(): Promise<readonly string[]>;

  /**
   * A build's manifest and header. Manifest, sizes, header, and the diff files of all
   * ancestors are checked; contents are checked by {@link verify} only. Throws BuildFormatError.
   */
  get(id: string): Promise<Build>;

  /**
   * As {@link get}, reading the files again: a build may have been damaged since. The state,
   * which is small and needed in full for a restore, is read entirely.
   */
  check(id: string): Promise<Build>;

  /**
   * Reads a build back entirely and compares checksums. Throws BuildFormatError for
   * the first file that is damaged.
   */
  verify(id: string): Promise<void>;

  /** Bytes that the files of a build occupy; missing files count as 0. */
  size(id: string): Promise<number>;

  /**
   * The files that a VMM and the pager restore a build from; they are kept while it is
   * referenced or leased.
   */
  open(build: Build): Promise<RestoreFiles>;

  /** A build's RAM; dispose of it to close the files. */
  openMemory(build: Build): Promise<MemoryReader & AsyncDisposable>;

  /** Writes the disk of a build to a file of its own at `path`, sparse as it is. */
  materialise(build: Build, path: string): Promise<void>;

  /**
   * Begins a new build. Disposing of it discards what was not published; until then it is
   * leased, so a published build must be referenced before that, or it is collected.
   */
  stage(): Promise<StagedBuild>;

  /**
   * Publishes a new build of generation 0 that stores all memory of `build` itself, if its
   * chain is too long or mostly unused; undefined if it is not. `refer` makes a reference to
   * the new build. The old one is left to the collector.
   */
  compact(build: Build, refer: (buildId: string) => Promise<void>): Promise<string | undefined>;

  /** Removes an unused build. Throws `internal_error` if it is referenced. Idempotent. */
  discard(id: string): Promise<void>;

  /** Discards the builds whose disk is the very file at `path` (see {@link StagedBuild.takeDisk}). */
  discardSharingDisk(path: string): Promise<void>;

  /** Keeps a build and its ancestors from collection while it is in use without a reference. */
  lease(id: string): Disposable;

  /**
   * A lease of a build that is known only from {@link list}; undefined if it no longer exists.
   * Waits for a collection that has begun to remove it.
   */
  leaseListed(id: string): Promise<Disposable | undefined>;

  /**
   * Removes every build that no reference and no lease reaches, directly or as an ancestor, and
   * the working sets of builds that no longer exist. Returns their ids. A build that cannot be
   * read prevents all removals, because the builds that it names are unknown: then it throws
   * BuildFormatError.
   */
  collect(): Promise<readonly string[]>;
}

/** A published build: immutable. */
export interface Build {
  readonly id: string;
  /** The path of its manifest, for messages. */
  readonly origin: string;
  readonly manifest: Manifest;
  readonly header: MemoryHeader;
}

/** Files of this host that a build is restored from. */
export interface RestoreFiles {
  /** State of vCPUs and devices. */
  readonly statePath: string;
  /** What the pager needs: the header, and the diff files by the build ids that it names. */
  readonly memory: {
    readonly headerPath: string;
    readonly diffPaths: Readonly<Record<string, string>>;
  };
}

/** The caller's part of a manifest; the store adds the rest. */
export type ManifestDraft = Omit<Manifest, 'format' | 'version' | 'id' | 'createdAt' | 'files'>;

/** A file with a guest's RAM, or with its changes. */
export interface MemoryFile {
  readonly path: string;
  readonly blockCount: number;
  /** What a hole means: see `CaptureSource`. */
  readonly holes: 'zero' | 'unchanged';
}

/** A build in the making. */
export interface StagedBuild extends AsyncDisposable {
  readonly id: string;

  /** The path to which the VMM writes the state of vCPUs and devices. */
  readonly statePath: string;

  /**
   * A path for a temporary file of the build: on the same file system, and removed after a
   * crash. The caller removes it before the build is published;
   * {@link publish} throws `internal_error` otherwise.
   */
  readonly scratchPath: string;

  /**
   * Stores the blocks of RAM that differ from `parent`, or that are not zero where there is
   * none. Throws `internal_error` if holes are unchanged and there is no parent.
   */
  writeMemory(memory: MemoryFile, parent?: Build): Promise<void>;

  /**
   * Moves a disk into the build without copying it, where the file system can: it must not be
   * written to any more.
   */
  takeDisk(path: string): Promise<void>;

  /** Copies a disk, sparse as it is. */
  copyDisk(path: string): Promise<void>;

  /**
   * Makes the build durable and visible, atomically. Nothing that the build was made from may
   * be destroyed before this resolves. Returns its id.
   */
  publish(draft: ManifestDraft): Promise<string>;
}

/** The holder of a reference: a sandbox that is paused in the build or runs from it, or a template. */
export type ReferenceKind = 'sandbox' | 'template';

export interface Reference {
  readonly kind: ReferenceKind;
  /** `[A-Za-z0-9._-]{1,128}`, unique within its kind. */
  readonly name: string;
  readonly buildId: string;
}

/** Names that refer to builds. Builds that no reference reaches may be collected. */
export interface References {
  all(): readonly Reference[];
  get(kind: ReferenceKind, name: string): string | undefined;
  /**
   * Makes a name refer to a build, replacing its previous one; durable when it resolves. If it
   * fails, the name refers to the previous one.
   */
  set(kind: ReferenceKind, name: string, buildId: string): Promise<void>;
  /** Idempotent. */
  delete(kind: ReferenceKind, name: string): Promise<void>;
}

/**
 * Which blocks the restores of a build touched first: what the next restore installs before the
 * guest faults. They are an optimisation only.
 */
export interface WorkingSets {
  /** Pairs of first block and count. */
  get(buildId: string): Promise<readonly number[] | undefined>;
  set(buildId: string, windows: readonly number[]): Promise<void>;
}
