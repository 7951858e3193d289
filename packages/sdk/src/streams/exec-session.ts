import { TorporError } from '@torpor/protocol/basics';
import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection } from '../http/connection.ts';
import { AttachedProgram, type ExitStatus } from './attached-program.ts';
import { type BytesFrame, FrameSocket } from './frame-socket.ts';

/** A piece of a process's output. */
export interface OutputChunk {
  readonly stream: 'stdout' | 'stderr';
  readonly data: Buffer;
}

/** A frame as it is written: fields with a default may be omitted. */
type ClientFrame = z.input<typeof rest.execClientFrameSchema>;
type ServerFrame = rest.ExecServerFrame | BytesFrame;
type Socket = FrameSocket<ServerFrame, ClientFrame>;

/** For input that is sent as binary frames. */
const BINARY_CHUNK_BYTES = 512 * 1024;

/** A process whose input and output are attached to this client. */
export class ExecSession implements AsyncDisposable {
  /** Process id in the sandbox. */
  readonly pid: number;
  readonly #socket: Socket;
  readonly #program: AttachedProgram<ServerFrame, ClientFrame>;
  readonly #binary: boolean;

  private constructor(socket: Socket, pid: number, binary: boolean) {
    this.#socket = socket;
    this.#binary = binary;
    this.#program = new AttachedProgram(
      socket,
      'The stream ended before the process exited; the server may have been stopped.',
    );
    this.pid = pid;
  }

  static async open(
    connection: Connection,
    path: string,
    start: ClientFrame | undefined,
    signal?: AbortSignal,
  ): Promise<ExecSession> {
    const socket: Socket = await FrameSocket.open<ServerFrame, ClientFrame>(
      connection,
      path,
      rest.execServerFrameSchema,
      signal,
      bytesFrame,
    );
    try {
      const first = await socket.request(start);
      const binary = start?.type === 'start' && start.binary === true;
      if (first.type === 'start') return new ExecSession(socket, first.pid, binary);
      throw new TorporError(
        'internal_error',
        'The server did not confirm the start of the process.',
      );
    } catch (error) {
      await socket[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The output until the process exits. For one reader; a slow reader slows down the process. */
  async *output(): AsyncGenerator<OutputChunk, void> {
    for await (const frame of this.#program.frames()) {
      if (frame.type === 'start') continue;
      if (frame.type === 'bytes') {
        yield frame;
        continue;
      }
      const encoding = frame.encoding === 'base64' ? 'base64' : 'utf8';
      yield { stream: frame.type, data: Buffer.from(frame.data, encoding) };
    }
  }

  /** Waits until the process exits; output that is not being read is dropped. */
  wait(): Promise<ExitStatus> {
    return this.#program.wait();
  }

  /**
   * Writes to the standard input of the process. Resolves when more can be written. The data of
   * calls that are not awaited may be interleaved.
   */
  async write(data: Uint8Array | string): Promise<void> {
    if (!this.#binary) {
      await this.#program.write(data, (base64) => ({ type: 'stdin', data: base64 }));
      return;
    }
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    for (let start = 0; start < bytes.length; start += BINARY_CHUNK_BYTES) {
      await this.#socket.sendBytes(bytes.subarray(start, start + BINARY_CHUNK_BYTES));
    }
  }

  async closeStdin(): Promise<void> {
    await this.#socket.send({ type: 'stdin_close' });
  }

  /** Kills the process and its process group. */
  async stop(): Promise<void> {
    await this.#socket.send({ type: 'stop' });
  }

  /** Closes the stream, which kills a process that this session started. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
  }
}

function bytesFrame(bytes: Buffer): BytesFrame {
  const stream = bytes[0] === rest.OUTPUT_STREAMS.stderr ? 'stderr' : 'stdout';
  return { type: 'bytes', stream, data: bytes.subarray(1) };
}
