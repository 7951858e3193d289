import { TorporError } from '@torpor/protocol/basics';
import type { FrameSocket, ServerFrame } from './frame-socket.ts';

export interface ExitStatus {
  /** What a shell would see in `$?`. */
  readonly exitCode: number;
  /** How it was terminated, if it did not exit by itself: `signal: killed`. */
  readonly error?: string;
}

type WithoutEnd<Frame extends ServerFrame> = Exclude<Frame, { type: 'exit' } | { type: 'error' }>;

/** Small enough that a slow program holds back little, and a frame stays far below the limit. */
const INPUT_CHUNK_BYTES = 32 * 1024;

/**
 * What the sessions with a process and with a terminal have in common once the program
 * has started: its frames, its exit, its input.
 */
export class AttachedProgram<Incoming extends ServerFrame, Outgoing> {
  readonly #socket: FrameSocket<Incoming, Outgoing>;
  readonly #lostMessage: string;
  #exit: ExitStatus | undefined;

  /** `lostMessage`: the message of the error if the stream ends before the program exits. */
  constructor(socket: FrameSocket<Incoming, Outgoing>, lostMessage: string) {
    this.#socket = socket;
    this.#lostMessage = lostMessage;
  }

  /** The frames until the program exits. For one reader; a slow one slows the program. */
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

  /** Waits for the exit; frames that nobody iterates are dropped. */
  async wait(): Promise<ExitStatus> {
    if (this.#exit === undefined) for await (const _ of this.frames());
    if (this.#exit === undefined) {
      throw new TorporError('internal_error', 'The program has no exit status.');
    }
    return this.#exit;
  }

  /** Sends input in frames that `frameOf` makes of base64. Resolves when more may be given. */
  async write(data: Uint8Array | string, frameOf: (base64: string) => Outgoing): Promise<void> {
    const bytes = Buffer.from(data);
    for (let start = 0; start < bytes.length; start += INPUT_CHUNK_BYTES) {
      const chunk = bytes.subarray(start, start + INPUT_CHUNK_BYTES);
      await this.#socket.send(frameOf(chunk.toString('base64')));
    }
  }
}
