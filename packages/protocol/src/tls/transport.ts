import { connect, type PeerCertificate } from 'node:tls';
import { Code, ConnectError, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import * as hostAgent from '../gen/hostagent/v1/hostagent_pb.ts';
import { parseIdentity, type TlsIdentity } from './identity.ts';
import { TlsSession } from './session.ts';

/** A certificate in PEM and its key. */
export interface TlsCredentials {
  readonly certificate: string;
  readonly privateKey: string;
}

export interface TlsPeer {
  /** HOST:PORT */
  readonly address: string;
  /** The certificate of the authority, in PEM. */
  readonly authority: string;
  /** Who the peer must be. */
  readonly identity: TlsIdentity;
  /** Asked for each new connection, because certificates are renewed; undefined: without a certificate. */
  readonly credentials: () => TlsCredentials | undefined;
}

/** Of an answer: far more than the longest output or list, for a peer that sends without end. */
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

/** A connection that is not made within this time has failed. */
const CONNECT_TIMEOUT_MS = 10_000;

/** Calls over TLS 1.3 and HTTP/2 to one peer. Its connection is made when it is needed. */
export class TlsTransport implements Transport, Disposable {
  readonly unary: Transport['unary'];
  readonly stream: Transport['stream'];
  readonly #session: TlsSession;

  constructor(peer: TlsPeer) {
    const baseUrl = `https://${peer.address}`;
    this.#session = new TlsSession(new URL(baseUrl).origin, () => connectTls(peer));
    const transport = createConnectTransport({
      httpVersion: '2',
      baseUrl,
      sessionManager: this.#session,
      interceptors: [lostConnections],
      // File contents and output are bulk data: compressing them costs more than it saves.
      acceptCompression: [],
      readMaxBytes: MAX_MESSAGE_BYTES,
    });
    this.unary = transport.unary.bind(transport);
    this.stream = transport.stream.bind(transport);
  }

  /** Closes the connection, and with it the calls in flight. */
  [Symbol.dispose](): void {
    this.#session[Symbol.dispose]();
  }
}

/**
 * Reports a connection that broke during a call as `Unavailable`, in whatever way HTTP/2 ended
 * the stream, and so a peer that refuses our certificate or sends too much: it is of no use to
 * the caller, whose rights are not in question. Our servers attach a detail to each error of
 * their own.
 */
const lostConnections: Interceptor = (next) => async (request) => {
  const convert = (reason: unknown): unknown => {
    const isOwn = !(reason instanceof ConnectError) || request.signal.aborted;
    if (isOwn || reason.findDetails(hostAgent.ErrorDetailSchema).length > 0) return reason;
    const message = messageOf(reason);
    if (message === undefined) return reason;
    return new ConnectError(message, Code.Unavailable, undefined, undefined, reason);
  };
  try {
    const response = await next(request);
    if (!response.stream) return response;
    return { ...response, message: convertErrors(response.message, convert) };
  } catch (reason) {
    throw convert(reason);
  }
};

/** Undefined unless the peer cannot be used. */
function messageOf({ code, rawMessage }: ConnectError): string | undefined {
  if (code === Code.PermissionDenied) {
    return 'The peer refuses our certificate: are the clocks of both machines right?';
  }
  if (code === Code.ResourceExhausted) return `The peer sent too much: ${rawMessage}`;
  return CODES_OF_BROKEN_STREAMS.has(code) ? rawMessage : undefined;
}

const CODES_OF_BROKEN_STREAMS: ReadonlySet<Code> = new Set([
  Code.Aborted,
  Code.Canceled,
  Code.Internal,
  Code.Unknown,
]);

async function* convertErrors<T>(
  messages: AsyncIterable<T>,
  convert: (reason: unknown) => unknown,
): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (reason) {
    throw convert(reason);
  }
}

function connectTls({ address, authority, identity, credentials }: TlsPeer) {
  const { hostname, port } = new URL(`https://${address}`);
  const own = credentials();
  const socket = connect({
    // An IPv6 address stands in brackets in a URL.
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: Number(port === '' ? 443 : port),
    ca: authority,
    ...(own === undefined ? {} : { cert: own.certificate, key: own.privateKey }),
    minVersion: 'TLSv1.3',
    ALPNProtocols: ['h2'],
    checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
      parseIdentity(certificate.subjectaltname) === identity
        ? undefined
        : new Error(`The certificate at ${address} is not that of ${identity}.`),
  });
  socket.setTimeout(CONNECT_TIMEOUT_MS, () =>
    socket.destroy(new Error(`${address} does not respond.`)),
  );
  socket.once('secureConnect', () => socket.setTimeout(0));
  return socket;
}
