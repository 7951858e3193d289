import { createConnection, type Socket } from 'node:net';
import { TorporError, withFullStop } from '@torpor/protocol';
import { ConsoleLog } from '../console-log.ts';

/**
 * Copies what the guest prints from QEMU's console socket to the log. While the disk is slow
 * the socket is not read, and QEMU drops what is not read, so memory stays bounded whatever the
 * guest prints.
 */
export class ConsoleReader {
  /** Resolves when all that was received is in the log. */
  readonly finished: Promise<void>;
  readonly #socket: Socket;

  private constructor(socket: Socket, log: ConsoleLog) {
    this.#socket = socket;
    this.finished = copy(socket, log);
  }

  /** Throws `vmm_failed` if the socket or the log cannot be opened. */
  static async open(
    socketPath: string,
    console: { readonly path: string; readonly maxBytes: number },
  ): Promise<ConsoleReader> {
    const log = await ConsoleLog.open(console.path, console.maxBytes);
    try {
      return new ConsoleReader(await connect(socketPath), log);
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

async function copy(socket: Socket, log: ConsoleLog): Promise<void> {
  try {
    // A console that cannot be logged, on a full disk for instance, must not block the guest.
    for await (const chunk of socket) await log.write(chunk).catch(() => undefined);
  } catch {
    // The connection was closed, by QEMU's exit or by close().
  } finally {
    await log.close();
  }
}

function connect(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once('connect', () => resolve(socket));
    socket.once('error', (error) => {
      const what = `The console of the machine cannot be read: ${withFullStop(error.message)}`;
      reject(new TorporError('vmm_failed', what, { cause: error }));
    });
  });
}
