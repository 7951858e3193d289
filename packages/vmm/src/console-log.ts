import { type FileHandle, open, rename } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { ignoreMissing } from '@torpor/linux';

/** How long a console's last bytes may take to reach its log after the VMM has exited. */
const DRAIN_MS = 500;

/**
 * A log of a serial console that never grows beyond its bound: when it would,
 * its older half is dropped. One writer; readers may open the file at any time.
 */
export class ConsoleLog {
  readonly #path: string;
  readonly #maxBytes: number;
  #file: FileHandle;
  #size: number;
  #last: Promise<void> = Promise.resolve();

  private constructor(path: string, maxBytes: number, file: FileHandle, size: number) {
    this.#path = path;
    this.#maxBytes = maxBytes;
    this.#file = file;
    this.#size = size;
  }

  /** Opens the log for appending; creates it if it does not exist. `maxBytes` is sensibly 64 KiB or more. */
  static async open(path: string, maxBytes: number): Promise<ConsoleLog> {
    const file = await open(path, 'a', 0o600);
    const { size } = await file.stat();
    return new ConsoleLog(path, maxBytes, file, size);
  }

  /** Appends in the order of the calls. Rejects with the file system's error; later calls try again. */
  write(chunk: Buffer): Promise<void> {
    const written = this.#last.then(() => this.#append(chunk));
    this.#last = written.catch(() => undefined);
    return written;
  }

  /** Waits for what was written and closes the file. */
  async close(): Promise<void> {
    await this.#last;
    await this.#file.close();
  }

  async #append(chunk: Buffer): Promise<void> {
    const half = Math.floor(this.#maxBytes / 2);
    const bytes = chunk.length > half ? chunk.subarray(chunk.length - half) : chunk;
    if (this.#size + bytes.length > this.#maxBytes) await this.#keepTail(half);
    await this.#file.appendFile(bytes);
    this.#size += bytes.length;
  }

  /** The tail goes to a new file that takes the old one's name, so a reader never sees half a log. */
  async #keepTail(bytes: number): Promise<void> {
    const tail = await readTail(this.#path, bytes);
    const replacement = await open(`${this.#path}.new`, 'w', 0o600);
    try {
      await replacement.appendFile(tail);
      await rename(`${this.#path}.new`, this.#path);
    } catch (error) {
      await replacement.close();
      throw error;
    }
    await this.#file.close();
    this.#file = replacement;
    this.#size = tail.length;
  }
}

/** Waits until the console of a VMM that has exited is `finished`, with a short time limit. */
export async function drained(finished: Promise<void>): Promise<void> {
  const cancel = new AbortController();
  const late = sleep(DRAIN_MS, undefined, { signal: cancel.signal }).catch(() => undefined);
  await Promise.race([finished, late]);
  cancel.abort();
}

/** The last bytes of a file, fewer if it is shorter; empty if it does not exist. */
export async function readTail(path: string, maxBytes: number): Promise<Buffer<ArrayBuffer>> {
  const file = await open(path, 'r').catch(ignoreMissing);
  if (file === undefined) return Buffer.alloc(0);
  try {
    const { size } = await file.stat();
    const length = Math.min(size, maxBytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** The last whole lines of a file, without their newlines. */
export async function readLastLines(path: string, count: number): Promise<string[]> {
  const tail = await readTail(path, count * 512);
  return tail
    .toString()
    .split(/\r*\n/)
    .filter((line) => line.trim() !== '')
    .slice(-count);
}
