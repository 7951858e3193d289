import { TorporError } from '@torpor/protocol/basics';
import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection } from '../http/connection.ts';
import { AttachedProgram, type ExitStatus } from './attached-program.ts';
import { FrameSocket } from './frame-socket.ts';

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/** A frame as it is written: fields with a default may be omitted. */
type ClientFrame = z.input<typeof rest.ptyClientFrameSchema>;
type Socket = FrameSocket<rest.PtyServerFrame, ClientFrame>;

/** A program on a pseudo-terminal in the sandbox, attached to this client. */
export class PtySession implements AsyncDisposable {
  readonly pid: number;
  /** Identifies the terminal: pass it to {@link Sandbox.connectPty}. */
  readonly tag: string;
  readonly #socket: Socket;
  readonly #program: AttachedProgram<rest.PtyServerFrame, ClientFrame>;

  private constructor(socket: Socket, pid: number, tag: string) {
    this.#socket = socket;
    this.#program = new AttachedProgram(
      socket,
      'The connection to the terminal was lost; the program in it keeps running.',
    );
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
      let frame = await socket.request(first);
      while (frame.type === 'ping') frame = await socket.request(undefined);
      if (frame.type === 'started') return new PtySession(socket, frame.pid, frame.tag);
      throw new TorporError(
        'internal_error',
        'The server did not confirm the start of the terminal.',
      );
    } catch (error) {
      await socket[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The output of the terminal until its program exits. For one reader. */
  async *output(): AsyncGenerator<Buffer, void> {
    for await (const frame of this.#program.frames()) {
      if (frame.type === 'output') yield Buffer.from(frame.data, 'base64');
    }
  }

  /** Waits until the program exits; output that is not being read is dropped. */
  wait(): Promise<ExitStatus> {
    return this.#program.wait();
  }

  /** Types into the terminal. Resolves when more can be written. */
  write(data: Uint8Array | string): Promise<void> {
    return this.#program.write(data, (base64) => ({ type: 'input', data: base64 }));
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
