import { rest, TorporError } from '@torpor/protocol';
import type { z } from 'zod';
import type { Connection } from '../http/connection.ts';
import { torporError } from '../http/errors.ts';
import type { ExitStatus } from './exec-session.ts';
import { FrameSocket } from './frame-socket.ts';

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/** A frame as it is written: fields with a default may be left out. */
type ClientFrame = z.input<typeof rest.ptyClientFrameSchema>;
type Socket = FrameSocket<rest.PtyServerFrame, ClientFrame>;

const INPUT_CHUNK_BYTES = 32 * 1024;

/** A program on a pseudo-terminal in the sandbox, attached to this client. */
export class PtySession implements AsyncDisposable {
  readonly pid: number;
  /** Names the terminal: {@link Sandbox.connectPty} finds it again. */
  readonly tag: string;
  readonly #socket: Socket;
  #exit: ExitStatus | undefined;

  private constructor(socket: Socket, pid: number, tag: string) {
    this.#socket = socket;
    this.pid = pid;
    this.tag = tag;
  }

  static async open(
    connection: Connection,
    path: string,
    first: ClientFrame,
    signal?: AbortSignal,
  ): Promise<PtySession> {
    const socket: Socket = await FrameSocket.open(
      connection,
      path,
      rest.ptyServerFrameSchema,
      signal,
    );
    try {
      await socket.send(first);
      for (;;) {
        const frame = await socket.receive();
        if (frame?.type === 'started') return new PtySession(socket, frame.pid, frame.tag);
        if (frame?.type === 'error') throw torporError(frame.code, frame.data, frame.remedy);
        if (frame === undefined) {
          throw new TorporError('internal_error', 'The stream ended before the terminal started.');
        }
      }
    } catch (error) {
      await socket[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What the terminal prints until its program ends. For one reader. */
  async *output(): AsyncGenerator<Buffer, void> {
    while (this.#exit === undefined) {
      const frame = await this.#socket.receive();
      switch (frame?.type) {
        case 'output':
          yield Buffer.from(frame.data, 'base64');
          break;
        case 'exit':
          this.#exit = {
            exitCode: frame.exit_code,
            ...(frame.error === undefined ? {} : { error: frame.error }),
          };
          this.#socket.close();
          break;
        case 'error':
          if (frame.fatal) throw torporError(frame.code, frame.data, frame.remedy);
          break;
        case 'started':
        case 'ping':
          break;
        case undefined:
          throw new TorporError(
            'host_unavailable',
            'The connection to the terminal was lost; the program in it keeps running.',
          );
      }
    }
  }

  /** Waits for the end of the program; output that nobody iterates is dropped. */
  async wait(): Promise<ExitStatus> {
    if (this.#exit === undefined) for await (const _ of this.output());
    if (this.#exit === undefined) {
      throw new TorporError('internal_error', 'The program has no exit status.');
    }
    return this.#exit;
  }

  /** Types into the terminal. Resolves when it may be given more. */
  async write(data: Uint8Array | string): Promise<void> {
    const bytes = Buffer.from(data);
    for (let start = 0; start < bytes.length; start += INPUT_CHUNK_BYTES) {
      const chunk = bytes.subarray(start, start + INPUT_CHUNK_BYTES);
      await this.#socket.send({ type: 'input', data: chunk.toString('base64') });
    }
  }

  async resize({ cols, rows }: TerminalSize): Promise<void> {
    await this.#socket.send({ type: 'resize', cols, rows });
  }

  async kill(): Promise<void> {
    await this.#socket.send({ type: 'kill' });
  }

  /** Closes the connection; the program keeps running and can be found by its tag. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
  }
}
