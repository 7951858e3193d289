import { constants, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { Socket } from 'node:net';
import { runCommand } from '@torpor/linux';
import { ConsoleLog } from '../console-log.ts';
import { HUNG_AFTER_MS } from '../hung-timeout.ts';

/** Longer than any line that is searched for, with its prefix. */
const REMEMBERED_CHARACTERS = 200;

/** The last line of a kernel that cannot power the machine off: Firecracker emulates no power switch. */
const HALTED = /\] reboot: (?:Power down|System halted|Power off not available)/;

/** Creates the pipe, for its owner only. */
export async function makeConsolePipe(path: string): Promise<void> {
  await runCommand('mkfifo', ['-m', '600', '--', path], { timeoutMs: HUNG_AFTER_MS });
}

/**
 * The end of the pipe that becomes Firecracker's standard output. It is open for reading too,
 * so that Firecracker neither waits nor fails while there is no reader: what then does not fit
 * into the pipe is dropped.
 */
export function openForFirecracker(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDWR | constants.O_NONBLOCK);
}

/** Copies what the guest prints to the log, until Firecracker exits. */
export class ConsolePipe {
  /** Resolves when all that was received is in the log. */
  readonly finished: Promise<void>;
  readonly #socket: Socket;

  private constructor(socket: Socket, log: ConsoleLog, onHalted: () => void) {
    this.#socket = socket;
    this.finished = copy(socket, log, onHalted);
  }

  /** `onHalted` is called when the guest's kernel says that it has stopped for good. */
  static async open(
    path: string,
    console: { readonly path: string; readonly maxBytes: number },
    onHalted: () => void,
  ): Promise<ConsolePipe> {
    const log = await ConsoleLog.open(console.path, console.maxBytes);
    try {
      // The socket owns the descriptor. Opening a pipe this way does not wait for the other end.
      const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      return new ConsolePipe(new Socket({ fd, readable: true, writable: false }), log, onHalted);
    } catch (error) {
      await log.close();
      throw error;
    }
  }

  /** Stops reading. */
  async close(): Promise<void> {
    this.#socket.destroy();
    await this.finished;
  }
}

async function copy(socket: Socket, log: ConsoleLog, onHalted: () => void): Promise<void> {
  let recent = '';
  try {
    for await (const chunk of socket) {
      // A console that cannot be logged, on a full disk for instance, must not block the guest.
      await log.write(chunk).catch(() => undefined);
      recent += chunk.toString('latin1');
      if (HALTED.test(recent)) onHalted();
      recent = recent.slice(-REMEMBERED_CHARACTERS);
    }
  } catch {
    // The pipe was closed, by close().
  } finally {
    await log.close();
  }
}
