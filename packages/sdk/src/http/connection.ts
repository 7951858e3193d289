import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol/basics';
import { Agent, type Dispatcher, request } from 'undici';
import type { z } from 'zod';
import {
  connectionError,
  connectionFailure,
  errorFromResponse,
  failedResponse,
  incompleteResponse,
} from './errors.ts';

export const DEFAULT_API_URL = 'http://127.0.0.1:7070';

/** No limit: a create boots a machine, and an exec may take a long time. */
const DEFAULT_REQUEST_TIMEOUT_MS = 0;
const CONNECT_TIMEOUT_MS = 10_000;
/** Before a create is sent again: together longer than a server takes to restart. */
const RETRY_DELAYS_MS = [100, 300, 1_000, 2_000, 4_000, 8_000] as const;
const PAGE_SIZE = 200;
const MAX_ERROR_BODY_BYTES = 64 * 1024;

export interface ConnectionOptions {
  /** The default is `TORPOR_API_URL`, then `http://127.0.0.1:7070`. */
  readonly apiUrl?: string;
  /** The default is `TORPOR_API_KEY`. `torpor env` prints the local one. */
  readonly apiKey?: string;
  /** The token of a user's session, instead of an API key: `torpor.account.login()` returns one. */
  readonly sessionToken?: string;
  /** The team in which requests with a session act. The default is that of the session. */
  readonly teamId?: string;
  /** How long the headers of a response may take; 0, the default, means no limit. */
  readonly requestTimeoutMs?: number;
  /**
   * Called for each request, which continues the trace that its `traceparent` (and `tracestate`)
   * name: https://www.w3.org/TR/trace-context/
   */
  readonly traceHeaders?: (() => TraceHeaders | undefined) | undefined;
}

export interface TraceHeaders {
  readonly traceparent?: string | undefined;
  readonly tracestate?: string | undefined;
}

export type Query = Record<string, string | number | readonly string[] | undefined>;

export interface RequestOptions {
  readonly query?: Query;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as it is, as `application/octet-stream`. */
  readonly body?: Readable | Uint8Array;
  readonly signal?: AbortSignal | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Options of every method that creates something. */
export interface CreateOptions {
  /**
   * For the same request of another process or after a restart: with the same key the API
   * creates nothing again and returns the first result, for a day. The default is a new one,
   * with which a request is sent again if the connection is lost.
   */
  readonly idempotencyKey?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The HTTP client of the SDK. */
export class Connection {
  readonly apiUrl: URL;
  readonly #authenticationHeaders: Readonly<Record<string, string>>;
  readonly #timeoutMs: number;
  readonly #dispatcher: Dispatcher;
  readonly #traceHeaders: ConnectionOptions['traceHeaders'];

  constructor(options: ConnectionOptions = {}) {
    this.apiUrl = parseApiUrl(options.apiUrl ?? process.env.TORPOR_API_URL ?? DEFAULT_API_URL);
    this.#authenticationHeaders = authenticationHeaders(options);
    this.#timeoutMs = options.requestTimeoutMs ?? DEFAULT_REQUEST_TIMEOUT_MS;
    this.#traceHeaders = options.traceHeaders;
    this.#dispatcher = new Agent({
      connect: { timeout: CONNECT_TIMEOUT_MS },
      headersTimeout: this.#timeoutMs,
      bodyTimeout: 0,
      // A slow exec must not make an unrelated request wait.
      pipelining: 1,
    });
  }

  /** Headers of every request and WebSocket: who makes it, and the trace that it is a part of. */
  get commonHeaders(): Readonly<Record<string, string>> {
    const { traceparent, tracestate } = this.#traceHeaders?.() ?? {};
    return {
      ...this.#authenticationHeaders,
      ...(traceparent === undefined ? {} : { traceparent }),
      ...(tracestate === undefined ? {} : { tracestate }),
    };
  }

  /** The address of a resource; path segments must be encoded already. */
  url(path: string, query: Query = {}): URL {
    const url = new URL(this.apiUrl);
    url.pathname = `${url.pathname.replace(/\/$/, '')}${path}`;
    for (const [name, value] of Object.entries(query)) {
      if (value === undefined) continue;
      for (const item of Array.isArray(value) ? value : [value])
        url.searchParams.append(name, String(item));
    }
    return url;
  }

  /** Sends a request and decodes the JSON of its response. Throws TorporError. */
  async json<T>(
    method: Dispatcher.HttpMethod,
    path: string,
    schema: z.ZodType<T>,
    options: RequestOptions = {},
  ): Promise<T> {
    return (await this.#receive(method, path, schema, options)).value;
  }

  /** All entries of a list whose body is an array, fetched page by page as they are consumed. */
  async *pages<T>(
    path: string,
    schema: z.ZodType<T[]>,
    { query, pageSize = PAGE_SIZE, ...options }: RequestOptions & { readonly pageSize?: number },
  ): AsyncGenerator<T, void> {
    let nextToken: string | undefined;
    do {
      const page = { ...query, limit: pageSize, next_token: nextToken };
      const { value, headers } = await this.#receive('GET', path, schema, {
        ...options,
        query: page,
      });
      yield* value;
      const token = headers['x-next-token'];
      nextToken = Array.isArray(token) ? token[0] : token;
    } while (nextToken !== undefined);
  }

  async #receive<T>(
    method: Dispatcher.HttpMethod,
    path: string,
    schema: z.ZodType<T>,
    options: RequestOptions,
  ) {
    const { body, headers } = await this.#send(method, path, options);
    try {
      return { value: decode(schema, await body.json()), headers };
    } catch (error) {
      if (error instanceof TorporError || options.signal?.aborted) throw error;
      if (!(error instanceof SyntaxError)) throw incompleteResponse(this.apiUrl, error);
      throw new TorporError(
        'internal_error',
        `${method} ${path} returned something other than JSON.`,
        {
          cause: error,
        },
      );
    }
  }

  /**
   * Sends a request that creates something, and decodes its response. It has an idempotency
   * key, so it is sent again if the connection is lost: nothing is created twice.
   */
  async create<T>(
    path: string,
    schema: z.ZodType<T>,
    options: Omit<RequestOptions, 'headers'> & CreateOptions,
  ): Promise<T> {
    const { idempotencyKey = randomUUID(), ...rest } = options;
    const headers = { 'idempotency-key': idempotencyKey };
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.json('POST', path, schema, { ...rest, headers });
      } catch (error) {
        const failure = connectionFailure(error);
        const mayHaveArrived = failure === 'lost' || (failure === 'not made' && attempt > 0);
        const waitMs = RETRY_DELAYS_MS[attempt];
        if (!mayHaveArrived || waitMs === undefined) throw error;
        await delay(waitMs, undefined, { signal: options.signal }).catch(() => undefined);
        options.signal?.throwIfAborted();
      }
    }
  }

  /** Sends a request whose response has no content. */
  async empty(
    method: Dispatcher.HttpMethod,
    path: string,
    options: RequestOptions = {},
  ): Promise<void> {
    const { body } = await this.#send(method, path, options);
    await body.dump();
  }

  /** Sends a request and returns the body of the response; the caller must read or destroy it. */
  async stream(
    method: Dispatcher.HttpMethod,
    path: string,
    options: RequestOptions = {},
  ): Promise<Readable> {
    return (await this.#send(method, path, options)).body;
  }

  /** Sends a request and returns the body of its response as text, piece by piece. One that breaks off throws `host_unavailable`. */
  async text(
    method: Dispatcher.HttpMethod,
    path: string,
    options: RequestOptions = {},
  ): Promise<AsyncIterable<string>> {
    const body = await this.stream(method, path, options);
    return textOf(body, this.apiUrl, options.signal);
  }

  async close(): Promise<void> {
    await this.#dispatcher.destroy();
  }

  async #send(
    method: Dispatcher.HttpMethod,
    path: string,
    options: RequestOptions,
  ): Promise<Dispatcher.ResponseData> {
    const contentType =
      options.json !== undefined
        ? { 'content-type': 'application/json' }
        : options.body !== undefined
          ? { 'content-type': 'application/octet-stream' }
          : {};
    const body = options.json === undefined ? options.body : JSON.stringify(options.json);
    const source = body instanceof Readable ? new WatchedSource(body) : undefined;
    let response: Dispatcher.ResponseData;
    try {
      response = await request(this.url(path, options.query), {
        method,
        dispatcher: this.#dispatcher,
        headers: {
          accept: 'application/json',
          ...contentType,
          ...options.headers,
          ...this.commonHeaders,
        },
        body: source?.content ?? body ?? null,
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
    } catch (error) {
      if (options.signal?.aborted) throw options.signal.reason;
      // The error of the caller's own stream is not about the API.
      if (source?.failure !== undefined) throw source.failure;
      throw connectionError(this.apiUrl, error);
    } finally {
      source?.end();
    }
    if (response.statusCode < 400) return response;
    throw errorFromResponse(failedResponse(response), await readLimited(response.body));
  }
}

async function* textOf(
  body: Readable,
  apiUrl: URL,
  signal: AbortSignal | undefined,
): AsyncGenerator<string, void> {
  try {
    for await (const text of body.setEncoding('utf8')) yield String(text);
  } catch (error) {
    signal?.throwIfAborted();
    throw incompleteResponse(apiUrl, error);
  }
}

/** A body whose own failure is told from that of the connection, for which undici destroys it too. */
class WatchedSource {
  readonly content: Readable;
  readonly #source: Readable;
  #failure: unknown;

  constructor(source: Readable) {
    this.#source = source;
    this.#failure = source.errored ?? undefined;
    // It may fail before the request reads it, or after the request.
    source.on('error', (error) => {
      this.#failure ??= error;
    });
    this.content = Readable.from(this.#chunks(), { objectMode: false });
  }

  get failure(): unknown {
    return this.#failure;
  }

  /** Destroys the source after the request, which may not have read all of it. */
  end(): void {
    this.#source.destroy();
  }

  /** Not `yield*`: undici throws the connection's error into this, and it must not reach the source as its own. */
  async *#chunks(): AsyncGenerator<Uint8Array> {
    const chunks: AsyncIterator<Uint8Array> = this.#source[Symbol.asyncIterator]();
    for (;;) {
      const next = await chunks.next().catch((error: unknown) => {
        this.#failure ??= error;
        throw this.#failure;
      });
      if (next.done === true) return;
      yield next.value;
    }
  }
}

function authenticationHeaders({ apiKey, sessionToken, teamId }: ConnectionOptions) {
  const team = teamId === undefined ? {} : { 'x-team-id': teamId };
  if (apiKey === undefined && sessionToken !== undefined) {
    return { authorization: `Bearer ${sessionToken}`, ...team };
  }
  const key = apiKey ?? process.env.TORPOR_API_KEY;
  return key === undefined ? {} : { 'x-api-key': key };
}

function parseApiUrl(text: string): URL {
  const url = URL.parse(text);
  if (url === null || !['http:', 'https:'].includes(url.protocol)) {
    throw new TorporError('invalid_request', `"${text}" is not the http(s) address of an API.`, {
      remedy: 'Set TORPOR_API_URL to something like http://127.0.0.1:7070.',
    });
  }
  return url;
}

/** Decodes a response; fields that a newer server added are kept. */
function decode<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  if (result.error.issues.every(({ code }) => code === 'unrecognized_keys')) return body as T;
  throw new TorporError(
    'internal_error',
    'The response of the API does not have the documented form.',
    {
      cause: result.error,
      remedy: 'Use a client of the same version as the server.',
    },
  );
}

async function readLimited(body: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_ERROR_BODY_BYTES) break;
  }
  return Buffer.concat(chunks).toString();
}
