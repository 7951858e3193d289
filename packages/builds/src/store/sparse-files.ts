import type { FileHandle } from 'node:fs/promises';
import type { Extent } from '../diff/capture.ts';

/** File system operations of a local store that Node's API lacks. */
export interface SparseFiles {
  /** Parts of a file that are no holes; bytes, in order. */
  readonly dataExtents: (file: FileHandle) => Iterable<Extent>;
  /** Copies a file with its holes, replacing `to`. */
  readonly copySparse: (from: string, to: string) => Promise<unknown>;
}
