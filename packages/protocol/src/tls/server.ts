import { constants, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import {
  createSecureServer,
  type Http2SecureServer,
  type Http2ServerRequest,
  type Http2Session,
} from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { type ConnectRouter, createContextKey, createContextValues } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { TorporError } from '../errors.ts';
import { issuedIdentity } from './identity.ts';
import type { TlsCredentials } from './transport.ts';

/** The caller of an RPC. */
export interface TlsCaller {
  /** Undefined if it has sent none. Its key is proven; who issued it is the handler's to check. */
  readonly certificate: X509Certificate | undefined;
  /** The IP address that the call comes from. */
  readonly address: string;
}

const NOBODY: TlsCaller = { certificate: undefined, address: '' };
/** Who calls, for handlers of a {@link TlsServer}. */
export const TLS_CALLER = createContextKey<TlsCaller>(NOBODY);

export interface TlsServerOptions {
  /** Every address of the machine if omitted. */
  readonly host?: string | undefined;
  /** 0 takes any free port. */
  readonly port: number;
  /** The certificate of the authority, in PEM. */
  readonly authority: string;
  readonly credentials: TlsCredentials;
  readonly routes: (router: ConnectRouter) => void;
  /** The largest message that it reads. */
  readonly readMaxBytes?: number | undefined;
  /** How long a caller may stay connected that shows no certificate of the authority; 30 s if omitted. */
  readonly strangerMs?: number | undefined;
  /** Whether a caller may call anything: asked once per connection, as TLS checks certificates. */
  readonly admits: (caller: TlsCaller) => boolean;
}

const DEFAULT_STRANGER_MS = 30_000;
/** Anyone can connect: those who have shown no certificate may not keep the others out. */
const MAX_STRANGERS = 64;
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** How long open calls have to end when the server closes. */
const CLOSE_GRACE_MS = 5_000;

/** Serves RPCs over TLS 1.3 and HTTP/2. */
export class TlsServer implements AsyncDisposable {
  readonly port: number;
  readonly #server: Http2SecureServer;
  readonly #sessions = new Set<Http2Session>();
  #strangers = 0;
  readonly #closing: AbortController;
  readonly #authority: string;

  private constructor(
    server: Http2SecureServer,
    closing: AbortController,
    { authority, strangerMs = DEFAULT_STRANGER_MS }: TlsServerOptions,
  ) {
    const issuer = new X509Certificate(authority);
    this.#server = server;
    this.#closing = closing;
    this.#authority = authority;
    const address = server.address();
    this.port = typeof address === 'object' && address !== null ? address.port : 0;
    server.on('session', (session) => {
      // Its handshake was under way when the server closed.
      if (closing.signal.aborted) return session.destroy();
      if (!isIssued(session, issuer)) this.#limitStranger(session, strangerMs);
      this.#sessions.add(session);
      session.once('close', () => this.#sessions.delete(session));
      session.on('error', () => session.destroy());
    });
  }

  /** Throws `host_setup` if the address cannot be listened on. */
  static async listen(options: TlsServerOptions): Promise<TlsServer> {
    const { host, port, routes, admits, readMaxBytes } = options;
    const closing = new AbortController();
    const callers = new WeakMap<Http2Session, TlsCaller & { readonly isAdmitted: boolean }>();
    const callerOf = ({ stream: { session } }: Http2ServerRequest) => {
      if (session === undefined) return undefined;
      const known = callers.get(session);
      if (known !== undefined) return known;
      const caller = peerOf(session);
      const admitted = { ...caller, isAdmitted: admits(caller) };
      callers.set(session, admitted);
      return admitted;
    };
    const handle = connectNodeAdapter({
      routes,
      shutdownSignal: closing.signal,
      acceptCompression: [],
      ...(readMaxBytes === undefined ? {} : { readMaxBytes }),
      contextValues: (request) => {
        const caller = callerOf(request as Http2ServerRequest);
        return createContextValues().set(TLS_CALLER, caller ?? NOBODY);
      },
    });
    const server = createSecureServer(
      {
        ...secureContext(options, options.authority),
        requestCert: true,
        // Whom to admit is decided below, by the identity and not only by the issuer.
        rejectUnauthorized: false,
        minVersion: 'TLSv1.3',
        handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
        // Each connection shows its certificate: none is resumed.
        secureOptions: constants.SSL_OP_NO_TICKET,
      },
      (request, response) => {
        if (!callerOf(request)?.isAdmitted) {
          response.writeHead(403).end();
          return;
        }
        try {
          handle(request, response);
        } catch {
          // The adapter throws for an :authority that is none. It must not end the process.
          response.writeHead(400).end();
        }
      },
    );
    try {
      server.listen({ port, ...(host === undefined ? {} : { host }) });
      await once(server, 'listening');
    } catch (error) {
      throw listenError(error, host, port);
    }
    return new TlsServer(server, closing, options);
  }

  /** New connections are served with these; open ones stay as they are. */
  renew(credentials: TlsCredentials): void {
    this.#server.setSecureContext(secureContext({ credentials }, this.#authority));
  }

  #limitStranger(session: Http2Session, maxMs: number): void {
    if (this.#strangers >= MAX_STRANGERS) {
      session.destroy();
      return;
    }
    this.#strangers++;
    const timer = setTimeout(() => session.destroy(), maxMs);
    session.once('close', () => {
      this.#strangers--;
      clearTimeout(timer);
    });
  }

  /** Ends streams, and waits a short time for other calls in flight. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new TorporError('host_unavailable', 'The server is shutting down.'));
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const session of this.#sessions) session.close();
    const force = setTimeout(() => {
      for (const session of this.#sessions) session.destroy();
    }, CLOSE_GRACE_MS);
    await closed;
    clearTimeout(force);
  }
}

function secureContext(
  { credentials }: Pick<TlsServerOptions, 'credentials'>,
  authority: string,
): { readonly key: string; readonly cert: string; readonly ca: string } {
  // With its authority, so that a joining agent can compare that with the fingerprint that it knows.
  const cert = `${credentials.certificate}\n${authority}`;
  return { key: credentials.privateKey, cert, ca: authority };
}

/** Whether the peer has shown a certificate of the authority, of whatever identity. */
function isIssued(session: Http2Session, authority: X509Certificate): boolean {
  const { certificate } = peerOf(session);
  return certificate !== undefined && issuedIdentity(certificate, authority) !== undefined;
}

function peerOf({ socket }: Http2Session): TlsCaller {
  const { remoteAddress = '' } = socket;
  return {
    certificate: (socket as TLSSocket).getPeerX509Certificate(),
    // An IPv4 address, also on a socket for both versions.
    address: remoteAddress.replace(/^::ffff:(?=\d+\.)/, ''),
  };
}

function listenError(error: unknown, host: string | undefined, port: number): TorporError {
  const message = error instanceof Error ? error.message : String(error);
  const where = host === undefined ? `port ${port}` : `${host}:${port}`;
  return new TorporError('host_setup', `Cannot listen on ${where}: ${message}.`, {
    remedy: 'Choose another port, or stop what uses it.',
    cause: error,
  });
}
