import { Agent as HttpAgent } from 'node:http';
import { Readable } from 'node:stream';
import { type Client, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import {
  envdFilesystem,
  envdProcess,
  type InitRequest,
  initRequestSchema,
  TorporError,
  USER_HEADER,
} from '@torpor/protocol';
import { Pool } from 'undici';
import { fromGuest, fromGuestStatus, GUEST_TIMEOUT_REMEDY, initError } from './guest-errors.ts';
import { traceGuestCall, traceGuestRequest } from './trace-guest.ts';

/** A unary call that takes longer means that the guest hangs. */
const UNARY_TIMEOUT_MS = 30_000;
/**
 * envd sends a keepalive on silent streams this often; if nothing is received for twice as
 * long, it no longer runs.
 */
const KEEPALIVE_SECONDS = 30;
export const STREAM_SILENCE_LIMIT_MS = 2 * KEEPALIVE_SECONDS * 1000 + 15_000;
const CONNECT_TIMEOUT_MS = 5_000;
const ERROR_BODY_LIMIT = 4096;

export interface GuestEndpoint {
  readonly sandboxId: string;
  /** For example `http://10.11.0.5:49983`. */
  readonly baseUrl: string;
  readonly accessToken: string;
}

export interface FileRequest {
  readonly path: string;
  readonly user?: string | undefined;
}

/** Options of every call: the account in the guest, and a signal that cancels the call. */
export interface CallOptions {
  readonly user?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The host agent's client of one guest's envd: pooled keep-alive connections that {@link
 * GuestClient.close} closes. Every error is a TorporError.
 */
export class GuestClient {
  readonly sandboxId: string;
  readonly process: Client<typeof envdProcess.Process>;
  readonly filesystem: Client<typeof envdFilesystem.Filesystem>;
  readonly #accessToken: string;
  readonly #agent: HttpAgent;
  readonly #pool: Pool;
  readonly #closed = new AbortController();

  constructor(endpoint: GuestEndpoint) {
    this.sandboxId = endpoint.sandboxId;
    this.#accessToken = endpoint.accessToken;
    this.#agent = new HttpAgent({ keepAlive: true, maxFreeSockets: 16 });
    this.#pool = new Pool(endpoint.baseUrl, {
      connect: { timeout: CONNECT_TIMEOUT_MS },
      connections: 64,
    });
    const transport = createConnectTransport({
      baseUrl: endpoint.baseUrl,
      httpVersion: '1.1',
      nodeOptions: { agent: this.#agent },
      // The guest is on the same machine: compression would only cost time.
      acceptCompression: [],
      interceptors: [this.#authenticate(), traceGuestCall(endpoint.sandboxId)],
    });
    this.process = createClient(envdProcess.Process, transport);
    this.filesystem = createClient(envdFilesystem.Filesystem, transport);
  }

  /** Fails every call with `reason` and closes the connections. */
  close(reason: TorporError): void {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort(reason);
    this.#agent.destroy();
    this.#pool.destroy(reason).catch(() => undefined);
  }

  /** Call options for a unary RPC: deadline, user, and the signal of this client's close. */
  unary(options: CallOptions = {}): { headers: Headers; signal: AbortSignal; timeoutMs: number } {
    return { ...this.stream(options), timeoutMs: UNARY_TIMEOUT_MS };
  }

  /** Call options for a streaming RPC, which has no deadline but keepalives. */
  stream(options: CallOptions = {}): { headers: Headers; signal: AbortSignal } {
    const headers = new Headers({
      'Keepalive-Ping-Interval': String(KEEPALIVE_SECONDS),
      ...userHeaders(options.user),
    });
    return { headers, signal: this.#signal(options.signal) };
  }

  /** Makes a call to the guest; its error becomes a TorporError. */
  async call<T>(options: CallOptions, action: () => Promise<T>): Promise<T> {
    try {
      return await action();
    } catch (error) {
      throw this.error(error, options);
    }
  }

  error(reason: unknown, options: CallOptions = {}): TorporError {
    const closed = this.#closed.signal;
    if (closed.aborted) return TorporError.from(closed.reason);
    return fromGuest(reason, { sandboxId: this.sandboxId, user: options.user });
  }

  /** Whether envd responds, within `timeoutMs` and before `signal` aborts. */
  async isHealthy(timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    const timeout = AbortSignal.timeout(timeoutMs);
    try {
      const response = await this.#pool.request({
        method: 'GET',
        path: '/health',
        signal: this.#signal(signal === undefined ? timeout : AbortSignal.any([timeout, signal])),
      });
      await response.body.dump();
      return response.statusCode < 300;
    } catch {
      return false;
    }
  }

  /**
   * `POST /init`: gives the guest the identity of this sandbox. `proof` is the token that a
   * restored guest had when it was committed. Throws unless all steps succeeded: `init_failed`
   * with the step that failed, `guest_unreachable` if not within `timeoutMs`.
   */
  async init(
    request: InitRequest,
    { timeoutMs, proof }: { timeoutMs: number; proof?: string },
  ): Promise<void> {
    const body = JSON.stringify(initRequestSchema.parse(request));
    const late = new AbortController();
    const timer = setTimeout(() => {
      const what = `The guest of sandbox ${this.sandboxId} did not complete its initialisation within ${timeoutMs / 1000} s.`;
      late.abort(new TorporError('guest_unreachable', what, { remedy: GUEST_TIMEOUT_REMEDY }));
    }, timeoutMs);
    try {
      const response = await this.#request({
        method: 'POST',
        path: '/init',
        headers: {
          'content-type': 'application/json',
          ...(proof === undefined ? {} : { 'x-access-token': proof }),
        },
        body,
        headersTimeoutMs: timeoutMs,
        options: { signal: late.signal },
      });
      await response.dump();
    } catch (error) {
      throw initError(error, this.sandboxId);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Writes a file from chunks, with back-pressure from the guest. */
  async writeFile(file: FileRequest, content: AsyncIterable<Uint8Array>, signal?: AbortSignal) {
    const body = Readable.from(content, { objectMode: false });
    const response = await this.#request({
      method: 'POST',
      path: filesPath(file),
      headers: { 'content-type': 'application/octet-stream', ...userHeaders(file.user) },
      body,
      options: { user: file.user, signal },
    });
    await response.dump();
  }

  /** Reads a file in chunks, with back-pressure from the consumer. */
  async *readFile(file: FileRequest, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const options = { user: file.user, signal };
    const body = await this.#request({
      method: 'GET',
      path: filesPath(file),
      headers: { 'accept-encoding': 'identity', ...userHeaders(file.user) },
      options,
    });
    try {
      for await (const chunk of body) yield chunk as Buffer;
    } catch (error) {
      throw this.error(error, options);
    }
  }

  async #request(request: {
    method: 'GET' | 'POST';
    path: string;
    headers: Record<string, string>;
    body?: string | Readable;
    /** undici's default if omitted. */
    headersTimeoutMs?: number;
    options: CallOptions;
  }) {
    const call = { sandboxId: this.sandboxId, user: request.options.user };
    try {
      const response = await traceGuestRequest(request, this.sandboxId, (traceHeaders) =>
        this.#pool.request({
          method: request.method,
          path: request.path,
          headers: { 'x-access-token': this.#accessToken, ...request.headers, ...traceHeaders },
          body: request.body ?? null,
          headersTimeout: request.headersTimeoutMs ?? null,
          signal: this.#signal(request.options.signal),
        }),
      );
      if (response.statusCode < 300) return response.body;
      const text = await readLimited(response.body, ERROR_BODY_LIMIT);
      throw fromGuestStatus(response.statusCode, text, call);
    } catch (error) {
      if (request.body instanceof Readable) request.body.destroy();
      if (request.options.signal?.reason instanceof TorporError)
        throw request.options.signal.reason;
      throw this.error(error, request.options);
    }
  }

  #signal(signal: AbortSignal | undefined): AbortSignal {
    if (signal === undefined) return this.#closed.signal;
    return AbortSignal.any([signal, this.#closed.signal]);
  }

  #authenticate(): Interceptor {
    return (next) => (request) => {
      request.header.set('X-Access-Token', this.#accessToken);
      return next(request);
    };
  }
}

function userHeaders(user: string | undefined): Record<string, string> {
  if (user === undefined) return {};
  // A daemon that does not know the header takes only account names, so it refuses a group.
  const account = user.replace(':', '/');
  return { [USER_HEADER]: user, authorization: `Basic ${btoa(`${account}:`)}` };
}

function filesPath({ path, user }: FileRequest): string {
  const query = new URLSearchParams({ path });
  if (user !== undefined) query.set('username', user);
  return `/files?${query}`;
}

async function readLimited(body: AsyncIterable<Uint8Array>, limit: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > limit) break;
  }
  return Buffer.concat(chunks).toString().slice(0, limit);
}
