import { readFileSync, statSync } from 'node:fs';
import { BLOCK_SIZE, type Mapping, parseMemoryHeader } from '@torpor/builds';
import { FileMapping } from '@torpor/linux';

export interface MemoryFiles {
  readonly headerPath: string;
  /** Diff files by build id. */
  readonly diffPaths: Readonly<Record<string, string>>;
}

/** A build's memory for serving faults: the location of every block, and the files with them. */
export class OpenBuild implements Disposable {
  readonly mapping: Mapping;
  /** In the order of `mapping.builds`. */
  readonly diffs: readonly FileMapping[];

  private constructor(mapping: Mapping, diffs: readonly FileMapping[]) {
    this.mapping = mapping;
    this.diffs = diffs;
  }

  /** Throws BuildFormatError or SystemError; then no file is left open. */
  static open({ headerPath, diffPaths }: MemoryFiles): OpenBuild {
    const { mapping } = parseMemoryHeader(readFileSync(headerPath), {
      path: headerPath,
      storedBlocks: (id) => {
        const path = diffPaths[id];
        return path === undefined ? undefined : Math.floor(statSync(path).size / BLOCK_SIZE);
      },
    });
    using stack = new DisposableStack();
    const diffs = mapping.builds.map((id) => stack.use(FileMapping.open(diffPaths[id] as string)));
    stack.move();
    return new OpenBuild(mapping, diffs);
  }

  [Symbol.dispose](): void {
    for (const diff of this.diffs) diff[Symbol.dispose]();
  }
}
