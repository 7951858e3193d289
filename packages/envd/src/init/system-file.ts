import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { mountMemoryFile } from '@torpor/linux';

/** Larger files were not written here, and reading one would block the daemon. */
const MAX_BYTES = 16 * 1024 * 1024;

/**
 * A small file of /etc with different content in every sandbox. It is replaced in its directory
 * if possible, so that it stays a regular file; else, on a disk that is full, read-only or
 * damaged, a file in memory is mounted over it, as container runtimes do.
 */
export class SystemFile {
  readonly #path: string;
  readonly #mode: number;
  /** The file in memory that is mounted over this one, open for writing. */
  #cover: number | undefined;

  constructor(path: string, mode: number) {
    this.#path = path;
    this.#mode = mode;
  }

  /** The content that programs read; undefined if it is not a regular file, or far too large. */
  read(): string | undefined {
    let fd: number;
    try {
      // Opening a named pipe would otherwise wait for its other end.
      fd = openSync(this.#path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch {
      return undefined;
    }
    try {
      const stat = fstatSync(fd);
      return stat.isFile() && stat.size <= MAX_BYTES ? readFileSync(fd, 'utf8') : undefined;
    } catch {
      return undefined;
    } finally {
      closeSync(fd);
    }
  }

  /**
   * Replaces the content that programs read. Throws an Error that says why it can be neither
   * replaced nor mounted over; then it is unchanged. Synchronous: the files are tiny, and in a
   * restored guest, where all code is cold, every use of the thread pool takes long.
   */
  write(content: string): void {
    if (this.read() === content || this.#rewriteCover(content)) return;
    try {
      this.#replace(content);
    } catch (replaceError) {
      try {
        this.#makeCover(content);
      } catch (coverError) {
        throw new Error(
          `${this.#path} can be neither replaced (${messageOf(replaceError)}) nor mounted over (${messageOf(coverError)})`,
          { cause: replaceError },
        );
      }
    }
  }

  /** Atomic: no reader sees a part of it, and a dangling link in its place does not matter. */
  #replace(content: string): void {
    const staged = `${this.#path}.torpor-new`;
    try {
      rmSync(staged, { force: true });
      writeFileSync(staged, content, { mode: this.#mode, flag: 'wx' });
      renameSync(staged, this.#path);
    } catch (error) {
      // On a full disk the empty file may exist although its content could not be written.
      attempt(() => rmSync(staged, { force: true }));
      throw error;
    }
  }

  #makeCover(content: string): void {
    const cover = mountMemoryFile(content, this.#path, this.#mode);
    if (this.#cover !== undefined) closeSync(this.#cover);
    this.#cover = cover;
  }

  /** Whether an earlier mount is still in place, and now has `content`. */
  #rewriteCover(content: string): boolean {
    const cover = this.#cover;
    if (cover === undefined) return false;
    return (
      attempt(() => {
        // A machine id has a fixed length, so no reader sees a part of one.
        const written = writeSync(cover, content, 0);
        ftruncateSync(cover, written);
      }) && this.read() === content
    );
  }
}

function attempt(action: () => void): boolean {
  try {
    action();
    return true;
  } catch {
    return false;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
