import { setTimeout as delay } from 'node:timers/promises';
import { rest, TorporError } from '@torpor/protocol';
import type { ProcessStreams } from '../guest/process-streams.ts';
import { forwardProcessEvents } from './output.ts';
import type { Session } from './session.ts';
import type { FrameSocket } from './socket.ts';

/** How long to wait for the start of a program whose client has disconnected, to kill it. */
const START_TIMEOUT_MS = 10_000;

/** Errors of the guest for input to a program that has closed it, or has exited. */
const INPUT_CLOSED: ReadonlySet<string> = new Set(['invalid_request', 'not_found']);

type StartFrame = Extract<rest.ExecClientFrame, { type: 'start' }>;
type Input = Uint8Array | 'close';

/** `…/exec/stream`: runs one program; it is killed when the client sends `stop` or disconnects. */
export async function serveExecStream({ socket, processes }: Session): Promise<void> {
  const start = await socket.receive(rest.execClientFrameSchema);
  if (start === undefined) return;
  if (start.type !== 'start') {
    throw new TorporError('invalid_request', 'The first frame must be of type "start".');
  }
  socket.acceptsBinary = start.binary;
  socket.keepAlive(rest.WEBSOCKET_PING_INTERVAL_MS);
  await new ExecStream(socket, processes, start).run();
}

class ExecStream {
  readonly #socket: FrameSocket;
  readonly #processes: ProcessStreams;
  readonly #start: StartFrame;
  readonly #abort = new AbortController();
  readonly #pid = Promise.withResolvers<number>();
  /** Whether a frame of the client was invalid, as opposed to a program that did not accept it. */
  #refused = false;

  constructor(socket: FrameSocket, processes: ProcessStreams, start: StartFrame) {
    this.#socket = socket;
    this.#processes = processes;
    this.#start = start;
  }

  /** Resolves at the program's exit or the client's disconnect; throws an error of either. */
  async run(): Promise<void> {
    const output = this.#forwardOutput();
    const input = this.#forwardInput();
    const { promise: hungUp, resolve: setHungUp } = Promise.withResolvers<void>();
    this.#socket.closed.addEventListener('abort', () => setHungUp());
    let finished = false;
    try {
      await Promise.race([
        output.then(() => {
          finished = true;
        }),
        input,
        hungUp,
      ]);
    } finally {
      if (!finished) await this.#abandon(output);
      input.catch(() => undefined);
      output.catch(() => undefined);
    }
  }

  #forwardOutput(): Promise<void> {
    const { timeout_sec: timeoutSec, stdin, tag, binary } = this.#start;
    const options = { timeoutSec, stdin, ...(tag === undefined ? {} : { tag }) };
    const events = this.#processes.start(this.#start, options, this.#abort.signal);
    return forwardProcessEvents(this.#socket, events, this.#pid.resolve, { binary });
  }

  async #forwardInput(): Promise<void> {
    const next = () => this.#nextInput();
    for (let first = await next(); first !== undefined; first = await next()) {
      const selector = { case: 'pid', value: await this.#pid.promise } as const;
      try {
        const pieces = untilClosed(first, next);
        await this.#processes.streamInput(selector, pieces, this.#abort.signal);
      } catch (reason) {
        // As in a pipeline, it is not an error if a program stops reading its input.
        if (this.#refused || !INPUT_CLOSED.has(TorporError.from(reason).code)) throw reason;
      }
    }
  }

  /** What the client sends next for the program; undefined once it has disconnected. Handles a `stop` in between. */
  async #nextInput(): Promise<Input | undefined> {
    try {
      for (;;) {
        const frame = await this.#socket.receiveAny(rest.execClientFrameSchema);
        if (frame === undefined) return undefined;
        if (Buffer.isBuffer(frame) || frame.type !== 'stop') return this.#inputOf(frame);
        await this.#kill();
      }
    } catch (reason) {
      this.#refused = true;
      throw reason;
    }
  }

  #inputOf(frame: Buffer | Exclude<rest.ExecClientFrame, { type: 'stop' }>): Input {
    if (!Buffer.isBuffer(frame) && frame.type === 'start') {
      throw new TorporError('invalid_request', 'The program has already been started.');
    }
    if (!this.#start.stdin) {
      throw new TorporError('invalid_request', 'The program was started without stdin.');
    }
    if (Buffer.isBuffer(frame)) return frame;
    return frame.type === 'stdin_close' ? 'close' : Buffer.from(frame.data, 'base64');
  }

  async #kill(): Promise<void> {
    const selector = { case: 'pid', value: await this.#pid.promise } as const;
    await this.#processes.kill(selector, 'SIGKILL').catch((reason: unknown) => {
      if (TorporError.from(reason).code !== 'not_found') throw reason;
    });
  }

  /** Kills the program, then aborts its streams: an aborted stream would no longer report the pid. */
  async #abandon(output: Promise<void>): Promise<void> {
    await Promise.race([
      this.#kill(),
      output,
      delay(START_TIMEOUT_MS, undefined, { ref: false }),
    ]).catch(() => undefined);
    this.#abort.abort(new TorporError('conflict', 'The client disconnected.'));
  }
}

async function* untilClosed(
  first: Input,
  next: () => Promise<Input | undefined>,
): AsyncGenerator<Input, void> {
  for (let piece: Input | undefined = first; piece !== undefined; piece = await next()) {
    yield piece;
    if (piece === 'close') return;
  }
}
