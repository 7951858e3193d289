import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmdirSync,
  unlinkSync,
} from 'node:fs';
import { errnoOf } from './errors.ts';
import { join } from './paths.ts';

const PREFIX = '.torpor-cp-';

/**
 * A private directory beside (or in) the place where a copy goes, so that it can be moved
 * there in one step. Removed with all that is in it when it is disposed.
 */
export class Staging implements Disposable {
  /** The path of the directory. The owner of its parent directory might replace it. */
  readonly path: Buffer;
  /** The directory itself, even if its name is replaced. */
  readonly base: Buffer;
  readonly #fd: number;

  /** Throws what mkdir(2) and open(2) do. `onPath` is called with the path before anything is created. */
  constructor(parent: Buffer, onPath: (path: Buffer) => void) {
    this.path = join(parent, `${PREFIX}${randomBytes(6).toString('hex')}`);
    onPath(this.path);
    mkdirSync(this.path, { mode: 0o700 });
    this.#fd = openSync(
      this.path,
      constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW,
    );
    this.base = Buffer.from(`/proc/self/fd/${this.#fd}`);
  }

  [Symbol.dispose](): void {
    try {
      removeContents(this.base);
      rmdirSync(this.path);
    } catch (error) {
      // Another process has removed or filled it: what is left is not ours.
      if (errnoOf(error) === undefined) throw error;
    } finally {
      closeSync(this.#fd);
    }
  }
}

/** Removes a file, or a directory with all that is in it, whatever its permissions are. */
function removeTree(path: Buffer): void {
  if (lstatSync(path).isDirectory()) {
    chmodSync(path, 0o700);
    removeContents(path);
    rmdirSync(path);
  } else unlinkSync(path);
}

function removeContents(directory: Buffer): void {
  for (const name of readdirSync(directory, { encoding: 'buffer' })) {
    removeTree(join(directory, name));
  }
}
