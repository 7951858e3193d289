import { TorporError } from '@torpor/protocol/basics';
import type { FrameSocket, ServerFrame } from './frame-socket.ts';

export interface ExitStatus {
  /** The exit status, as a shell has it in `$?`. */
  readonly exitCode: number;
  /** The signal, if one terminated it: `signal: killed`. */
  readonly error?: string;
}

type WithoutEnd<Frame extends ServerFrame> = Exclude<Frame, { type: 'exit' } | { type: 'error' }>;

/** Small enough that little is buffered for a slow program, and far below the limit of a frame. */
const INPUT_CHUNK_BYTES = 32 * 1024;

/**
 * The common part of sessions with a process and with a terminal, once the program has
 * started: its frames, its exit, its input.
 */
export class AttachedProgram<Incoming extends ServerFrame, Outgoing> {
  readonly #socket: FrameSocket<Incoming, Outgoing>;
  readonly #lostMessage: string;
  #exit: ExitStatus | undefined;

  /** `lostMessage`: the message of the error if the stream is closed before the program exits. */
  constructor(socket: FrameSocket<Incoming, Outgoing>, lostMessage: string) {
    this.#socket = socket;
    this.#lostMessage = lostMessage;
  }

  /** The frames until the program exits. For one reader; a slow reader slows down the program. */
  async *frames(): AsyncGenerator<WithoutEnd<Incoming>, void> {
    while (this.#exit === undefined) {
      const frame = await this.#socket.receive();
      if (frame === undefined) throw new TorporError('host_unavailable', this.#lostMessage);
      if (frame.type === 'exit') {
        const { exit_code: exitCode, error } = frame;
        this.#exit = { exitCode, ...(error === undefined ? {} : { error }) };
        this.#socket.close();
      } else {
        const event: unknown = frame;
        yield event as WithoutEnd<Incoming>;
      }
    }
  }

  /** Waits until the program exits; frames that are not being read are dropped. */
  async wait(): Promise<ExitStatus> {
    if (this.#exit === undefined) for await (const _ of this.frames());
    if (this.#exit === undefined) {
      throw new TorporError('internal_error', 'The program has no exit status.');
    }
    return this.#exit;
  }

  /** Sends input in frames that `frameOf` makes of base64. Resolves when more can be written. */
  async write(data: Uint8Array | string, frameOf: (base64: string) => Outgoing): Promise<void> {
    const bytes = Buffer.from(data);
    for (let start = 0; start < bytes.length; start += INPUT_CHUNK_BYTES) {
      const chunk = bytes.subarray(start, start + INPUT_CHUNK_BYTES);
      await this.#socket.send(frameOf(chunk.toString('base64')));
    }
  }
}
