import { once } from 'node:events';
import { closeSync, constants, createReadStream, fstatSync, openSync } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { isatty, ReadStream } from 'node:tty';
import { errnoOf } from './errors.ts';

/*
 * open(2), read(2) and write(2) of a FIFO wait for the other side, and Node calls them in a
 * thread that a process must wait for before it exits. Here FIFOs and terminals do not block,
 * and the event loop waits for them instead.
 */

const NONBLOCKING = constants.O_NONBLOCK | constants.O_NOCTTY;
const READER_CHECK_INTERVAL_MS = 100;

/** What can be read from a FIFO or a device. Throws what open(2) does. */
export function readSpecialFile(path: string, highWaterMark: number): Readable {
  const fd = openSync(path, constants.O_RDONLY | NONBLOCKING);
  // One that has not had a writer yet polls as empty, not as hung up (pipe_poll() of Linux).
  if (fstatSync(fd).isFIFO()) return new Socket({ fd, readable: true, writable: false });
  if (isatty(fd)) return new ReadStream(fd);
  // Not every other device can be polled.
  closeSync(fd);
  return createReadStream(path, { highWaterMark });
}

/** Where the content of a file is written in order. */
export interface Sink {
  writeFile(data: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/**
 * Opens a FIFO or a device to write to. The signal aborts the wait for a reader of a FIFO, and
 * makes a write to it fail. Throws what open(2) does.
 */
export async function openSpecialFile(path: Buffer, signal?: AbortSignal): Promise<Sink> {
  if (!(await stat(path)).isFIFO()) return open(path, 'a');
  for (;;) {
    try {
      return new FifoSink(openSync(path, constants.O_WRONLY | NONBLOCKING), signal);
    } catch (error) {
      // It has no reader yet, and nothing announces one.
      if (errnoOf(error) !== 'ENXIO') throw error;
      await delay(READER_CHECK_INTERVAL_MS, undefined, signal === undefined ? {} : { signal });
    }
  }
}

class FifoSink implements Sink {
  readonly #socket: Socket;

  constructor(fd: number, signal: AbortSignal | undefined) {
    this.#socket = new Socket({ fd, readable: false, writable: true, ...(signal && { signal }) });
    // A failed write reports it.
    this.#socket.on('error', () => undefined);
  }

  writeFile(data: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(data, (error) => (error == null ? resolve() : reject(error)));
    });
  }

  async close(): Promise<void> {
    if (this.#socket.destroyed) return;
    const closed = once(this.#socket, 'close');
    this.#socket.end(() => this.#socket.destroy());
    await closed;
  }
}
