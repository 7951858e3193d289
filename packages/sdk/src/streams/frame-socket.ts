import { TorporError } from '@torpor/protocol';
import { type RawData, WebSocket } from 'ws';
import type { z } from 'zod';
import type { Connection } from '../http/connection.ts';
import { connectionError, errorFromBody } from '../http/errors.ts';

/** Bytes of received frames that wait for the reader before the socket is paused. */
const HIGH_WATER_BYTES = 1024 * 1024;
const LOW_WATER_BYTES = 256 * 1024;
const MAX_FRAME_BYTES = 16 * 1024 * 1024;
const HANDSHAKE_TIMEOUT_MS = 30_000;

/**
 * JSON frames over a WebSocket, read one at a time. A reader that lags behind
 * pauses the socket, so that the other side is slowed down and nothing is lost
 * or heaped up.
 */
export class FrameSocket<Received, Sent> implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #schema: z.ZodType<Received>;
  readonly #queue: { frame: Received; bytes: number }[] = [];
  #queuedBytes = 0;
  #ended = false;
  #failure: TorporError | undefined;
  #wake: (() => void) | undefined;

  private constructor(socket: WebSocket, schema: z.ZodType<Received>) {
    this.#socket = socket;
    this.#schema = schema;
    socket.on('message', (data) => this.#receive(data));
    socket.on('close', () => this.#end());
    socket.on('error', (error) => {
      this.#failure ??= new TorporError('host_unavailable', `The stream broke: ${error.message}`, {
        cause: error,
      });
      this.#end();
    });
  }

  /** Connects. Throws what the server says when it refuses. */
  static open<Received, Sent>(
    connection: Connection,
    path: string,
    schema: z.ZodType<Received>,
    signal?: AbortSignal,
  ): Promise<FrameSocket<Received, Sent>> {
    const url = connection.url(path);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(url, {
      headers: connection.authenticationHeaders,
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
      maxPayload: MAX_FRAME_BYTES,
      perMessageDeflate: false,
    });
    const frames = new FrameSocket<Received, Sent>(socket, schema);
    return new Promise((resolve, reject) => {
      const abort = () => {
        reject(signal?.reason);
        socket.terminate();
      };
      if (signal?.aborted) return abort();
      signal?.addEventListener('abort', abort, { once: true });
      socket.once('open', () => {
        signal?.removeEventListener('abort', abort);
        resolve(frames);
      });
      socket.once('unexpected-response', (_request, response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () => {
          reject(errorFromBody(response.statusCode ?? 500, Buffer.concat(chunks).toString()));
          socket.terminate();
        });
        response.on('error', (error) => reject(connectionError(connection.apiUrl, error)));
      });
      socket.once('error', (error) => reject(connectionError(connection.apiUrl, error)));
    });
  }

  /** Resolves when the frame has left this process: the sender's back-pressure. */
  send(frame: Sent): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.send(JSON.stringify(frame), (error) => {
        if (error == null) return resolve();
        reject(
          new TorporError('host_unavailable', `The stream is closed: ${error.message}`, {
            cause: error,
          }),
        );
      });
    });
  }

  /** The next frame, or undefined after the last. Throws if the stream broke. */
  async receive(): Promise<Received | undefined> {
    for (;;) {
      const next = this.#queue.shift();
      if (next !== undefined) {
        this.#queuedBytes -= next.bytes;
        if (this.#socket.isPaused && this.#queuedBytes <= LOW_WATER_BYTES) this.#socket.resume();
        return next.frame;
      }
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  close(): void {
    this.#socket.resume();
    this.#socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.readyState === WebSocket.CLOSED) return;
    this.#socket.terminate();
  }

  #receive(data: RawData): void {
    const text = data.toString();
    let frame: Received;
    try {
      frame = this.#schema.parse(JSON.parse(text));
    } catch (error) {
      this.#failure ??= new TorporError('internal_error', 'The server sent an unknown frame.', {
        cause: error,
        remedy: 'Use a client of the version of the server.',
      });
      this.#socket.terminate();
      return;
    }
    this.#queue.push({ frame, bytes: text.length });
    this.#queuedBytes += text.length;
    if (this.#queuedBytes > HIGH_WATER_BYTES) this.#socket.pause();
    this.#wake?.();
  }

  #end(): void {
    this.#ended = true;
    this.#wake?.();
  }
}
