import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type ClientSessionRequestOptions,
  connect,
  constants,
  type OutgoingHttpHeaders,
} from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { Code, ConnectError } from '@connectrpc/connect';

/** A peer that does not respond is noticed within the sum of these, in the middle of a call too. */
const PING_INTERVAL_MS = 15_000;
const PING_TIMEOUT_MS = 10_000;

/**
 * The HTTP/2 connection of a transport, made when it is needed. Used in place of that of
 * connect-node 2.2, whose keep-alive throws in a timer when the connection has just been
 * destroyed (connect-es issue 1795), which would end the process.
 */
export class TlsSession implements Disposable {
  readonly authority: string;
  readonly #connect: () => TLSSocket;
  #current: Promise<ClientHttp2Session> | undefined;
  /** All that are open: one that takes no new requests may still have some in flight. */
  readonly #sessions = new Set<ClientHttp2Session>();
  #isDisposed = false;

  /** `authority`: the origin of the URLs of requests. */
  constructor(authority: string, connectSocket: () => TLSSocket) {
    this.authority = authority;
    this.#connect = connectSocket;
  }

  async request(
    method: string,
    path: string,
    headers: OutgoingHttpHeaders,
    options: Omit<ClientSessionRequestOptions, 'signal'>,
  ): Promise<ClientHttp2Stream> {
    const session = await this.#open();
    // The default of Node has no brackets around an IPv6 address.
    const { host } = new URL(this.authority);
    const target = { ':authority': host, ':method': method, ':path': path };
    return session.request({ ...headers, ...target }, options);
  }

  /** Liveness is found by pings alone. */
  notifyResponseByteRead(): void {}

  /** Closes the connection, and with it the calls in flight. There is no other one later. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    for (const session of this.#sessions) {
      session.destroy(unavailable('The connection was closed.'), constants.NGHTTP2_CANCEL);
    }
  }

  #open(): Promise<ClientHttp2Session> {
    if (this.#isDisposed) return Promise.reject(unavailable('The connection was closed.'));
    if (this.#current === undefined) {
      const opened = this.#begin(() => {
        if (this.#current === opened) this.#current = undefined;
      });
      this.#current = opened;
    }
    return this.#current;
  }

  /** `onEnd` is called when the connection takes no new requests. */
  async #begin(onEnd: () => void): Promise<ClientHttp2Session> {
    const session = connect(this.authority, { createConnection: () => this.#connect() });
    this.#sessions.add(session);
    session.once('close', () => this.#sessions.delete(session));
    session.once('close', onEnd);
    session.once('goaway', onEnd);
    const { promise, resolve, reject } = Promise.withResolvers<ClientHttp2Session>();
    const fail = (message: string, cause?: Error) =>
      reject(unavailable(message, new NotConnected(message, { cause })));
    session.on('error', (error) => fail(reasonOf(error), error));
    session.once('close', () => fail('The connection was closed.'));
    session.once('connect', () => resolve(session));
    await promise;
    keepAlive(session);
    return session;
  }
}

function keepAlive(session: ClientHttp2Session): void {
  const interval = setInterval(() => {
    if (session.destroyed) return;
    const timeout = setTimeout(
      () => session.destroy(unavailable('The peer does not respond.'), constants.NGHTTP2_CANCEL),
      PING_TIMEOUT_MS,
    );
    session.ping(() => clearTimeout(timeout));
  }, PING_INTERVAL_MS);
  session.once('close', () => clearInterval(interval));
}

const CLOCK_ERRORS: ReadonlySet<unknown> = new Set(['CERT_NOT_YET_VALID', 'CERT_HAS_EXPIRED']);

function reasonOf(error: NodeJS.ErrnoException): string {
  if (!CLOCK_ERRORS.has(error.code)) return error.message;
  return `${error.message}: are the clocks of both machines right?`;
}

/** The cause of the error of a call that was not sent, because no connection could be made. */
export class NotConnected extends Error {
  override readonly name = 'NotConnected';
}

function unavailable(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.Unavailable, undefined, undefined, cause);
}
