import { connect, type PeerCertificate } from 'node:tls';
import type { Transport } from '@connectrpc/connect';
import { createConnectTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { parseIdentity, type TlsIdentity } from './identity.ts';

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

/** A connection that is not made within this time has failed. */
const CONNECT_TIMEOUT_MS = 10_000;
/** A peer that does not respond is noticed within the sum of these, in the middle of a call too. */
const PING = { pingIntervalMs: 15_000, pingTimeoutMs: 10_000, pingIdleConnection: true };

/** Calls over TLS 1.3 and HTTP/2 to one peer. Its connection is made when it is needed. */
export class TlsTransport implements Transport, Disposable {
  readonly unary: Transport['unary'];
  readonly stream: Transport['stream'];
  readonly #sessions: Http2SessionManager;

  constructor(peer: TlsPeer) {
    const baseUrl = `https://${peer.address}`;
    this.#sessions = new Http2SessionManager(baseUrl, PING, {
      createConnection: () => connectTls(peer),
    });
    const transport = createConnectTransport({
      httpVersion: '2',
      baseUrl,
      sessionManager: this.#sessions,
      // File contents and output are bulk data: compressing them costs more than it saves.
      acceptCompression: [],
    });
    this.unary = transport.unary.bind(transport);
    this.stream = transport.stream.bind(transport);
  }

  /** Closes the connection, and with it the calls in flight. */
  [Symbol.dispose](): void {
    this.#sessions.abort();
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
