import { constants, openSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { Socket } from 'node:net';
import { runCommand } from '@torpor/linux';
import { ConsoleLog } from '../console-log.ts';
import { HUNG_AFTER_MS } from '../patience.ts';

/** Longer than any of the lines that are looked for, and than what comes before them in a line. */
const REMEMBERED_CHARACTERS = 200;

/** What a kernel says last when it cannot switch the machine off: Firecracker emulates no power. */
const HALTED = /\] reboot: (?:Power down|System halted|Power off not available)/;

/** Makes the pipe, for its owner only. */
export async function makeConsolePipe(path: string): Promise<void> {
  await runCommand('mkfifo', ['-m', '600', '--', path], { timeoutMs: HUNG_AFTER_MS });
}

/**
 * The end that Firecracker gets as its standard output. It is open for reading
 * too, so that Firecracker neither waits nor fails while there is no reader: what then
 * does not fit into the pipe is dropped.
 */
export function openForFirecracker(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDWR | constants.O_NONBLOCK);
}

/** Copies what the guest prints to the log, until Firecracker exits. */
export class ConsolePipe {
  /** Resolves when all that came is in the log. */
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
      // The socket owns the descriptor. Opening a pipe so does not wait for the other end.
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
      // A console that cannot be logged, on a full disk for instance, must not hold up the guest.
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
