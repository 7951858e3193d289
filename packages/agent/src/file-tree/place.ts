import { copyFileSync, lstatSync, readdirSync, renameSync, type Stats } from 'node:fs';
import { errnoOf, isFatal, type Omission, reasonOf } from './errors.ts';
import { applyToDirectory, type MetadataOptions, type Xattr } from './metadata.ts';
import { join } from './paths.ts';
import type { Entry } from './records.ts';
import type { Target } from './target.ts';

/** A directory that was made aside. Its mode and time are set last: filling it would change them. */
export interface Directory {
  readonly path: Buffer;
  /** Below the source, for people. */
  readonly shown: string;
  readonly entry: Entry;
  readonly xattrs: readonly Xattr[];
  /** By name, its bytes as Latin-1. */
  readonly children: Map<string, Directory>;
}

interface PlaceOptions extends MetadataOptions {
  readonly onOmission: (omission: Omission) => void;
}

/**
 * Moves a complete tree to its destination. All of it is synchronous, so that no signal
 * interrupts it half-way. Throws what rename(2) does, before anything was moved.
 */
export function place(root: Directory, target: Target, options: PlaceOptions): void {
  const placement = new Placement(options);
  if (target.found === 'directory') {
    placement.merge(root, target.path);
    return;
  }
  placement.finishBelow(root, root.path);
  renameSync(root.path, target.path);
  // Only now: a directory that may not be written to cannot be moved elsewhere.
  placement.finish(root, target.path);
}

/** Moves a single file to its destination. */
export function moveFile(path: Buffer, target: Target): void {
  try {
    renameSync(path, target.path);
  } catch (error) {
    // A mount point, as /etc/hosts is in a container, can be written to but not replaced.
    if (errnoOf(error) !== 'EBUSY') throw error;
    copyFileSync(path, target.path);
  }
}

class Placement {
  readonly #options: PlaceOptions;

  constructor(options: PlaceOptions) {
    this.#options = options;
  }

  /** Moves what is in a directory into one that exists. */
  merge(from: Directory, to: Buffer): void {
    for (const name of readdirSync(from.path, { encoding: 'buffer' })) {
      const shown = from.shown === '' ? name.toString() : `${from.shown}/${name}`;
      this.#attempt(shown, () => this.#mergeMember(from, to, name, shown));
    }
  }

  #mergeMember(from: Directory, to: Buffer, name: Buffer, shown: string): void {
    const source = join(from.path, name);
    const target = join(to, name);
    const there = statusOf(target);
    const directory = from.children.get(name.toString('latin1'));
    if (directory === undefined) {
      if (there?.isDirectory()) this.#omit(shown, 'a directory with that name exists');
      else renameSync(source, target);
    } else if (there === undefined) {
      this.finishBelow(directory, source);
      renameSync(source, target);
      this.finish(directory, target);
    } else if (there.isDirectory()) this.merge(directory, target);
    else this.#omit(shown, 'a file with that name exists');
  }

  /** Gives the directories below one, which is at `path` now, what their entries say. */
  finishBelow(directory: Directory, path: Buffer): void {
    for (const [name, child] of directory.children) {
      const childPath = join(path, Buffer.from(name, 'latin1'));
      this.finishBelow(child, childPath);
      this.finish(child, childPath);
    }
  }

  finish(directory: Directory, path: Buffer): void {
    const { shown, entry, xattrs } = directory;
    this.#attempt(shown, () =>
      applyToDirectory(path, entry, xattrs, this.#options, (reason) => this.#omit(shown, reason)),
    );
  }

  #attempt(shown: string, action: () => void): void {
    try {
      action();
    } catch (error) {
      if (isFatal(error)) throw error;
      this.#omit(shown, reasonOf(error));
    }
  }

  #omit(path: string, reason: string): void {
    this.#options.onOmission({ path, reason });
  }
}

function statusOf(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
