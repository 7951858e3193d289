import { once } from 'node:events';
import { rest, TorporError } from '@torpor/protocol';
import type { RawData, WebSocket } from 'ws';
import type { z } from 'zod';
import { errorBody } from '../errors/public-error.ts';
import { parseWith } from '../validation/parse-with.ts';

/** Limits of queued frames, and of their bytes; above either, the socket is not read. */
const MAX_WAITING_FRAMES = 64;
const MAX_WAITING_BYTES = 2 * 1024 * 1024;
/** How long a client may take to respond to the closing handshake. */
const CLOSE_TIMEOUT_MS = 5_000;

/**
 * A WebSocket of JSON frames, and of binary ones if enabled, with back-pressure both ways:
 * `send` resolves when the frame has left this process, and input is read only as fast as it
 * is handled.
 */
export class FrameSocket {
  /** Aborts when the socket is closed, from either side. */
  readonly closed: AbortSignal;
  readonly #socket: WebSocket;
  readonly #waiting: (string | Buffer)[] = [];
  #waitingBytes = 0;
  /** Whether the client may send binary frames. */
  acceptsBinary = false;
  #wake: () => void = () => undefined;
  #closing = false;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    const closed = new AbortController();
    this.closed = closed.signal;
    socket.on('message', (data, isBinary) => {
      // Keeps reading, for the response to our close, and drops what arrives.
      if (this.#closing) return;
      if (isBinary && !this.acceptsBinary) {
        void this.fail(new TorporError('invalid_request', 'Frames must be JSON text.'));
        return;
      }
      if (sizeOf(data) > rest.MAX_CLIENT_FRAME_BYTES) {
        void this.fail(frameTooLarge(sizeOf(data)));
        return;
      }
      this.#waiting.push(isBinary ? bytesOf(data) : data.toString());
      this.#waitingBytes += sizeOf(data);
      if (this.#waits(1)) socket.pause();
      this.#wake();
    });
    // A protocol error closes the socket too; it is the client's fault.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      closed.abort(new TorporError('conflict', 'The client disconnected.'));
      this.#wake();
    });
  }

  /** Sends a frame, and waits until the client can take more. Does nothing once the socket is closed. */
  send(frame: object): Promise<void> {
    return this.#send(JSON.stringify(frame));
  }

  #send(data: string | Buffer): Promise<void> {
    if (this.#socket.readyState !== this.#socket.OPEN) return Promise.resolve();
    return new Promise((resolve) => {
      this.#socket.send(data, () => resolve());
    });
  }

  /** Like {@link send}, for a binary frame: `kind` as a byte, and the bytes. */
  sendBytes(kind: number, bytes: Uint8Array): Promise<void> {
    return this.#send(Buffer.concat([Buffer.of(kind), bytes]));
  }

  /** The next frame, or undefined once the socket is closed. Throws `invalid_request`. */
  async receive<S extends z.ZodType>(schema: S): Promise<z.output<S> | undefined> {
    const frame = await this.receiveAny(schema);
    if (!Buffer.isBuffer(frame)) return frame;
    throw new TorporError('invalid_request', 'A binary frame was received where none is expected.');
  }

  /** Like {@link receive}, but the frame may be binary. */
  async receiveAny<S extends z.ZodType>(schema: S): Promise<z.output<S> | Buffer | undefined> {
    while (this.#waiting.length === 0) {
      if (this.closed.aborted) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const frame = this.#waiting.shift() ?? '';
    this.#waitingBytes -= Buffer.byteLength(frame);
    if (!this.#waits(1 / 2)) this.#socket.resume();
    return typeof frame === 'string' ? parseWith(schema, parseJson(frame), 'frame') : frame;
  }

  /** Whether the queue is filled to this part of its limits. */
  #waits(part: number): boolean {
    return (
      this.#waiting.length >= part * MAX_WAITING_FRAMES ||
      this.#waitingBytes >= part * MAX_WAITING_BYTES
    );
  }

  /** Reports an error and closes the socket. */
  async fail(reason: unknown): Promise<void> {
    const error = TorporError.from(reason);
    if (!this.#closing) {
      this.#closing = true;
      // Not awaited: a client that does not read must not keep the socket open.
      void this.send(errorFrame(error));
    }
    await this.close(error.httpStatus < 500 ? 1008 : 1011);
  }

  /** Closes the socket after everything was sent; terminates the connection if the client does not respond. */
  async close(code = 1000): Promise<void> {
    if (this.#socket.readyState === this.#socket.CLOSED) return;
    const closed = once(this.#socket, 'close');
    this.#closing = true;
    this.#socket.resume();
    this.#socket.close(code);
    const force = setTimeout(() => this.#socket.terminate(), CLOSE_TIMEOUT_MS);
    await closed;
    clearTimeout(force);
  }

  /** Calls `beat` at an interval, and terminates the connection if the client responds to no ping between two beats. */
  keepAlive(intervalMs: number, beat: () => void = () => undefined): void {
    let responded = true;
    const setResponded = () => {
      responded = true;
    };
    this.#socket.on('pong', setResponded);
    // A pong arrives after the input that was sent before it.
    this.#socket.on('message', setResponded);
    const timer = setInterval(() => {
      if (!responded) {
        this.#socket.terminate();
        return;
      }
      // While the socket is not read, no pong is received.
      responded = this.#socket.isPaused;
      this.#socket.ping();
      beat();
    }, intervalMs);
    this.closed.addEventListener('abort', () => clearInterval(timer));
  }
}

function sizeOf(data: RawData): number {
  if (Array.isArray(data)) return data.reduce((sum, part) => sum + part.length, 0);
  return data.byteLength;
}

function frameTooLarge(bytes: number): TorporError {
  return new TorporError(
    'too_large',
    `A frame may have at most ${rest.MAX_CLIENT_FRAME_BYTES} bytes; this one has ${bytes}.`,
    { remedy: 'Send input in several frames, and long arguments as a file of the sandbox.' },
  );
}

function errorFrame(error: TorporError) {
  const { message, ...rest } = errorBody(error).error;
  return { type: 'error' as const, data: message, ...rest, fatal: true };
}

function bytesOf(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data;
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new TorporError('invalid_request', 'A frame is not valid JSON.');
  }
}
