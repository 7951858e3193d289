import type { FileHandle } from 'node:fs/promises';
import type { Extent } from '../diff/capture.ts';

/** What a local store needs of the file system beyond Node's API. */
export interface SparseFiles {
  /** Parts of a file that are no holes; bytes, in order. */
  readonly dataExtents: (file: FileHandle) => Iterable<Extent>;
  /** Copies a file with its holes, in place of what is at `to`. */
  readonly copySparse: (from: string, to: string) => Promise<unknown>;
}
