import { rest, TorporError } from '@torpor/protocol';
import type { z } from 'zod';
import type { Connection } from '../http/connection.ts';
import { torporError } from '../http/errors.ts';
import { FrameSocket } from './frame-socket.ts';

/** A piece of a process's output. */
export interface OutputChunk {
  readonly stream: 'stdout' | 'stderr';
  readonly data: Buffer;
}

export interface ExitStatus {
  /** What a shell would see in `$?`. */
  readonly exitCode: number;
  /** How it ended, if not by itself: `signal: killed`. */
  readonly error?: string;
}

/** Small enough that a slow process holds back little, and a frame stays far below the limit. */
const INPUT_CHUNK_BYTES = 32 * 1024;

/** A frame as it is written: fields with a default may be left out. */
type ClientFrame = z.input<typeof rest.execClientFrameSchema>;
type Socket = FrameSocket<rest.ExecServerFrame, ClientFrame>;

/** A process whose input and output are attached to this client. */
export class ExecSession implements AsyncDisposable {
  /** Process id in the sandbox. */
  readonly pid: number;
  readonly #socket: Socket;
  #exit: ExitStatus | undefined;

  private constructor(socket: Socket, pid: number) {
    this.#socket = socket;
    this.pid = pid;
  }

  static async open(
    connection: Connection,
    path: string,
    start: ClientFrame | undefined,
    signal?: AbortSignal,
  ): Promise<ExecSession> {
    const socket: Socket = await FrameSocket.open(
      connection,
      path,
      rest.execServerFrameSchema,
      signal,
    );
    try {
      if (start !== undefined) await socket.send(start);
      const first = await socket.receive();
      if (first?.type === 'start') return new ExecSession(socket, first.pid);
      throw first?.type === 'error'
        ? torporError(first.code, first.data, first.remedy)
        : new TorporError('internal_error', 'The stream ended before the process started.');
    } catch (error) {
      await socket[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The output until the process ends. To be iterated by one reader; a slow reader slows the process. */
  async *output(): AsyncGenerator<OutputChunk, void> {
    while (this.#exit === undefined) {
      const frame = await this.#socket.receive();
      switch (frame?.type) {
        case 'stdout':
        case 'stderr':
          yield {
            stream: frame.type,
            data: Buffer.from(frame.data, frame.encoding === 'base64' ? 'base64' : 'utf8'),
          };
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
        case 'start':
          break;
        case undefined:
          throw new TorporError(
            'host_unavailable',
            'The stream ended before the process did; the server may have been stopped.',
          );
      }
    }
  }

  /** Waits for the end of the process; output that nobody iterates is dropped. */
  async wait(): Promise<ExitStatus> {
    if (this.#exit === undefined) for await (const _ of this.output());
    if (this.#exit === undefined) {
      throw new TorporError('internal_error', 'The process has no exit status.');
    }
    return this.#exit;
  }

  /** Writes to the process's standard input. Resolves when it may be given more. */
  async write(data: Uint8Array | string): Promise<void> {
    const bytes = Buffer.from(data);
    for (let start = 0; start < bytes.length; start += INPUT_CHUNK_BYTES) {
      const chunk = bytes.subarray(start, start + INPUT_CHUNK_BYTES);
      await this.#socket.send({ type: 'stdin', data: chunk.toString('base64') });
    }
  }

  async closeStdin(): Promise<void> {
    await this.#socket.send({ type: 'stdin_close' });
  }

  /** Ends the process with its whole group. */
  async stop(): Promise<void> {
    await this.#socket.send({ type: 'stop' });
  }

  /** Closes the stream, which ends a process that this session started. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
  }
}
