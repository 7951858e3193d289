import { TorporError } from '@torpor/protocol/basics';
import type * as rest from '@torpor/protocol/rest';
import type { RawData, WebSocket } from 'ws';
import type { z } from 'zod';
import type { Connection } from '../http/connection.ts';
import { connectionError, errorFromResponse, failedResponse, torporError } from '../http/errors.ts';

/** Bytes of received frames that wait for the reader before the socket is paused. */
const HIGH_WATER_BYTES = 1024 * 1024;
const LOW_WATER_BYTES = 256 * 1024;
const MAX_FRAME_BYTES = 16 * 1024 * 1024;
/** RFC 6455, section 7.4.1. */
const MESSAGE_TOO_BIG = 1009;
const HANDSHAKE_TIMEOUT_MS = 30_000;

/** Output that was received as a binary frame. */
export interface BytesFrame {
  readonly type: 'bytes';
  readonly stream: 'stdout' | 'stderr';
  readonly data: Buffer;
}

export type ServerFrame = rest.ExecServerFrame | rest.PtyServerFrame | BytesFrame;
type ErrorFrame = Extract<ServerFrame, { type: 'error' }>;

/** The frames of the server without its errors, which are thrown. */
export type EventFrame<Frame extends ServerFrame> = Exclude<Frame, ErrorFrame>;

/**
 * JSON frames, and binary ones if enabled, over a WebSocket, read one at a time. If the reader
 * is slow, the socket is paused, so that the server is slowed down, nothing is lost and the
 * buffer is bounded. An error frame of the server takes precedence over errors that follow from
 * it on this side.
 */
export class FrameSocket<Received extends ServerFrame, Sent> implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #schema: z.ZodType<Received>;
  readonly #decodeBytes: ((bytes: Buffer) => EventFrame<Received>) | undefined;
  readonly #queue: { frame: EventFrame<Received>; bytes: number }[] = [];
  readonly #closed = Promise.withResolvers<void>();
  #queuedBytes = 0;
  #finished = false;
  #failure: TorporError | undefined;
  #wake: (() => void) | undefined;

  private constructor(
    socket: WebSocket,
    schema: z.ZodType<Received>,
    decodeBytes: ((bytes: Buffer) => EventFrame<Received>) | undefined,
  ) {
    this.#socket = socket;
    this.#schema = schema;
    this.#decodeBytes = decodeBytes;
    socket.on('message', (data, isBinary) => this.#receive(data, isBinary));
    socket.on('close', (code) => {
      if (code === MESSAGE_TOO_BIG) this.#failure ??= frameTooLarge();
      this.#closed.resolve();
      this.#end();
    });
    socket.on('error', (error) => {
      this.#failure ??= new TorporError(
        'host_unavailable',
        `The stream was interrupted: ${error.message}`,
        {
          cause: error,
        },
      );
      this.#end();
    });
  }

  /** Connects. Throws the server's error if it refuses. `decodeBytes` decodes binary frames. */
  static async open<Received extends ServerFrame, Sent>(
    connection: Connection,
    path: string,
    schema: z.ZodType<Received>,
    signal?: AbortSignal,
    decodeBytes?: (bytes: Buffer) => EventFrame<Received>,
  ): Promise<FrameSocket<Received, Sent>> {
    // Loaded here, because most programs and commands open no stream.
    const { WebSocket } = await import('ws');
    const url = connection.url(path);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(url, {
      headers: connection.commonHeaders,
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
      maxPayload: MAX_FRAME_BYTES,
      perMessageDeflate: false,
      ...(isDirect(url) ? { generateMask: () => undefined } : {}),
    });
    const frames = new FrameSocket<Received, Sent>(socket, schema, decodeBytes);
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
          reject(errorFromResponse(failedResponse(response), Buffer.concat(chunks).toString()));
          socket.terminate();
        });
        // Has no effect if the response was complete.
        response.on('close', () => {
          reject(connectionError(connection.apiUrl, new Error('the response is incomplete')));
          socket.terminate();
        });
      });
      socket.once('error', (error) => reject(connectionError(connection.apiUrl, error)));
    });
  }

  /**
   * Resolves when the frame has left this process: the sender's back-pressure. If it
   * cannot be sent, throws the error that the server sent before it closed the stream.
   */
  send(frame: Sent): Promise<void> {
    return this.#send(JSON.stringify(frame));
  }

  /** Like {@link send}, for a binary frame. */
  sendBytes(bytes: Uint8Array): Promise<void> {
    return this.#send(bytes);
  }

  async #send(data: string | Uint8Array): Promise<void> {
    const failed = await new Promise<Error | undefined>((resolve) => {
      this.#socket.send(data, (error) => resolve(error ?? undefined));
    });
    if (failed === undefined) return;
    // While the socket is paused, the server's error would not be received.
    this.#socket.resume();
    await this.#closed.promise;
    throw this.#failure ?? closedError(failed);
  }

  /** The next frame, or undefined after the last. Throws the error of the server, or of the connection. */
  async receive(): Promise<EventFrame<Received> | undefined> {
    for (;;) {
      const next = this.#queue.shift();
      if (next !== undefined) {
        this.#queuedBytes -= next.bytes;
        if (this.#socket.isPaused && this.#queuedBytes <= LOW_WATER_BYTES) this.#socket.resume();
        return next.frame;
      }
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#finished) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Sends a frame and returns the reply to it. Throws if the stream is closed instead. */
  async request(frame: Sent | undefined): Promise<EventFrame<Received>> {
    if (frame !== undefined) await this.send(frame);
    const reply = await this.receive();
    if (reply !== undefined) return reply;
    throw closedError();
  }

  close(): void {
    this.#socket.resume();
    this.#socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.readyState === this.#socket.CLOSED) return;
    this.#socket.terminate();
  }

  #receive(data: RawData, isBinary: boolean): void {
    if (isBinary && this.#decodeBytes !== undefined && Buffer.isBuffer(data)) {
      this.#enqueue(this.#decodeBytes(data), data.length);
      return;
    }
    const text = data.toString();
    let frame: Received;
    try {
      frame = this.#schema.parse(JSON.parse(text));
    } catch (error) {
      this.#failure ??= new TorporError('internal_error', 'The server sent an unknown frame.', {
        cause: error,
        remedy: 'Use a client of the same version as the server.',
      });
      this.#socket.terminate();
      return;
    }
    if (isError(frame)) {
      if (frame.fatal)
        this.#failure ??= torporError(frame.code, frame.data, {
          issues: frame.issues,
          ...(frame.remedy === undefined ? {} : { remedy: frame.remedy }),
        });
      this.#wake?.();
      return;
    }
    this.#enqueue(frame as EventFrame<Received>, text.length);
  }

  #enqueue(frame: EventFrame<Received>, bytes: number): void {
    this.#queue.push({ frame, bytes });
    this.#queuedBytes += bytes;
    if (this.#queuedBytes > HIGH_WATER_BYTES) this.#socket.pause();
    this.#wake?.();
  }

  #end(): void {
    this.#finished = true;
    this.#wake?.();
  }
}

/**
 * Whether no proxy can mistake frames for requests, which masks protect against (RFC 6455,
 * section 10.3). If so, a mask of zeros saves time.
 */
function isDirect({ protocol, hostname }: URL): boolean {
  return protocol === 'wss:' || /^(?:localhost|127\.[0-9.]+|\[::1\])$/.test(hostname);
}

function isError(frame: ServerFrame): frame is ErrorFrame {
  return frame.type === 'error';
}

function closedError(cause?: Error): TorporError {
  return new TorporError('host_unavailable', 'The server closed the stream without a reason.', {
    remedy: 'Check whether the server is still running, and what it logs.',
    ...(cause === undefined ? {} : { cause }),
  });
}

function frameTooLarge(): TorporError {
  return new TorporError('too_large', 'The server does not accept a frame of this size.', {
    remedy: 'Write long arguments and variables to a file of the sandbox.',
  });
}
