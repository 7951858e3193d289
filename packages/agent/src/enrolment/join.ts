import { createHash, X509Certificate } from 'node:crypto';
import { connect, type DetailedPeerCertificate } from 'node:tls';
import { createClient } from '@connectrpc/connect';
import { TorporError, enrolment as wire } from '@torpor/protocol';
import {
  CONTROL_PLANE_IDENTITY,
  certificateFingerprint,
  hostIdentity,
  issuedIdentity,
  parseJoinToken,
  TlsTransport,
} from '@torpor/protocol/tls';
import { certificateRequest, newPrivateKey } from './certificate-request.ts';
import {
  type Enrolment,
  readEnrolment,
  readPending,
  writeEnrolment,
  writePending,
} from './enrolment-file.ts';

export interface JoinRequest {
  /** Where the control plane listens for agents. */
  readonly url: string;
  /** Not needed by a host that has joined. */
  readonly token?: string;
}

const CALL_TIMEOUT_MS = 15_000;

/**
 * The enrolment of the host of a data directory. A host that has joined needs no token, and
 * ignores the one that it joined with; another one makes it join again. An address alone is
 * where the same control plane is from now on. The key is written before the token is sent: so
 * a join whose response was lost can be tried again. Throws `host_setup` without a token or for
 * a damaged file, `invalid_request` for a malformed token, `unauthorized` if the token is
 * refused, `conflict` if the machine is another host, `host_unavailable`.
 */
export async function enrol(dataDir: string, join: JoinRequest | undefined): Promise<Enrolment> {
  const known = await readEnrolment(dataDir);
  const { url, token } = join ?? {};
  const tokenHash = token === undefined ? undefined : hashOf(token);
  if (known !== undefined && (token === undefined || known.token_hash === tokenHash)) {
    return moved(dataDir, known, url ?? known.url);
  }
  if (url === undefined || token === undefined || tokenHash === undefined) {
    throw new TorporError('host_setup', 'This machine has not joined a control plane.', {
      remedy: 'Start it with --join, the address and the token that creating a host printed.',
    });
  }
  const pending = await readPending(dataDir);
  const privateKey = pending?.token_hash === tokenHash ? pending.private_key : newPrivateKey();
  await writePending(dataDir, { version: 1, private_key: privateKey, token_hash: tokenHash });
  const enrolment = await requestEnrolment({ url, token }, privateKey, tokenHash);
  if (known !== undefined) await assertNoOtherHost(known, enrolment);
  await writeEnrolment(dataDir, enrolment);
  return enrolment;
}

function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/** Keeps the address, if the control plane is there. Throws `unauthorized`, `host_unavailable`. */
async function moved(dataDir: string, known: Enrolment, url: string): Promise<Enrolment> {
  if (url === known.url) return known;
  await fetchAuthority(addressOf(url), certificateFingerprint(known.authority));
  const enrolment = { ...known, url };
  await writeEnrolment(dataDir, enrolment);
  return enrolment;
}

/**
 * Throws `conflict` if the machine would become another host while it is one: nobody could reach
 * what runs on it. The token is not lost: it is bound to the key that is written down.
 */
async function assertNoOtherHost(known: Enrolment, next: Enrolment): Promise<void> {
  if (known.host_id === next.host_id || !(await isKnown(known))) return;
  throw new TorporError(
    'conflict',
    `This machine is the host ${known.host_id} of ${known.url}, to which what runs here belongs.`,
    {
      remedy:
        'Delete that host first and repeat the command within the hour, or use another data directory.',
    },
  );
}

/** Whether the control plane still has the host; false if it does not respond. */
async function isKnown({
  url,
  authority,
  certificate,
  private_key: privateKey,
}: Enrolment): Promise<boolean> {
  using transport = new TlsTransport({
    address: addressOf(url),
    authority,
    identity: CONTROL_PLANE_IDENTITY,
    credentials: () => ({ certificate, privateKey }),
  });
  const csr = await certificateRequest(privateKey);
  return await createClient(wire.EnrolmentService, transport)
    .renew({ csr }, { timeoutMs: CALL_TIMEOUT_MS })
    .then(
      () => true,
      () => false,
    );
}

async function requestEnrolment(
  { url, token }: Required<JoinRequest>,
  privateKey: string,
  tokenHash: string,
): Promise<Enrolment> {
  const fingerprint = parseJoinToken(token)?.authorityFingerprint;
  if (fingerprint === undefined) {
    throw new TorporError('invalid_request', 'The token is not one of a host.', {
      remedy: 'Give the whole token that creating a host printed: it begins with tpj_.',
    });
  }
  const address = addressOf(url);
  const authority = await fetchAuthority(address, fingerprint);
  const identity = CONTROL_PLANE_IDENTITY;
  using transport = new TlsTransport({
    address,
    authority,
    identity,
    credentials: () => undefined,
  });
  const client = createClient(wire.EnrolmentService, transport);
  const csr = await certificateRequest(privateKey);
  const { hostId, certificate } = await client
    .join({ token, csr }, { timeoutMs: CALL_TIMEOUT_MS })
    .catch((reason: unknown) => {
      const error = TorporError.from(reason);
      throw error.code === 'host_unavailable' ? connectionError(address, error) : error;
    });
  assertIssued(certificate, authority, hostId);
  return {
    version: 1,
    url,
    host_id: hostId,
    authority,
    certificate,
    private_key: privateKey,
    token_hash: tokenHash,
  };
}

/** HOST:PORT of a URL. Throws `invalid_request`. */
export function addressOf(url: string): string {
  if (URL.canParse(url)) {
    const { protocol, hostname, port } = new URL(url);
    if (protocol === 'https:' && hostname !== '') return `${hostname}:${port === '' ? 443 : port}`;
  }
  throw new TorporError('invalid_request', `${JSON.stringify(url)} is not an https:// address.`, {
    remedy: 'Give the address that creating a host printed.',
  });
}

/** Throws `unauthorized` unless the certificate is what was requested. */
export function assertIssued(certificate: string, authority: string, hostId: string): void {
  const identity = issuedIdentity(new X509Certificate(certificate), new X509Certificate(authority));
  if (identity === hostIdentity(hostId)) return;
  throw new TorporError(
    'unauthorized',
    'The control plane returned a certificate that is not ours.',
  );
}

/**
 * The certificate of the authority with this fingerprint, which the server shows with its own.
 * Nothing is sent to it: only a connection that trusts this certificate carries the token.
 */
export async function fetchAuthority(address: string, fingerprint: string): Promise<string> {
  const shown = await shownCertificates(address);
  const authority = shown.find((pem) => certificateFingerprint(pem) === fingerprint);
  if (authority !== undefined) return authority;
  throw new TorporError(
    'unauthorized',
    `The server at ${address} is not the control plane that made the token.`,
    {
      remedy:
        'Check the address and the token. If both are right, something else responds in its place.',
    },
  );
}

/** The certificates that a server shows, in PEM, its own first. */
function shownCertificates(address: string): Promise<string[]> {
  const { hostname, port } = new URL(`https://${address}`);
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: hostname.replace(/^\[(.*)\]$/, '$1'),
      port: Number(port === '' ? 443 : port),
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['h2'],
      // Whether to trust it is decided by the fingerprint.
      rejectUnauthorized: false,
      timeout: CALL_TIMEOUT_MS,
    });
    socket.once('secureConnect', () => {
      resolve(chainOf(socket.getPeerCertificate(true)));
      socket.destroy();
    });
    socket.once('timeout', () => socket.destroy(new Error('It does not respond.')));
    socket.once('error', (error) => reject(connectionError(address, error)));
  });
}

function connectionError(address: string, error: NodeJS.ErrnoException): TorporError {
  const { code = '', message } = error;
  // OpenSSL's message has several lines, and nothing that helps.
  const reason = /^(EPROTO|ERR_SSL)/.test(code) ? 'It does not speak TLS 1.3.' : message;
  return new TorporError('host_unavailable', `Cannot connect to ${address}: ${reason}`, {
    remedy:
      'Check that the control plane runs and its port for agents, by default 7071, can be reached.',
    cause: error,
  });
}

function chainOf(leaf: DetailedPeerCertificate): string[] {
  const chain: string[] = [];
  let certificate: DetailedPeerCertificate | undefined = leaf;
  while (certificate?.raw !== undefined) {
    chain.push(new X509Certificate(certificate.raw).toString());
    // That of a certificate that has signed itself is itself.
    const issuer: DetailedPeerCertificate | undefined = certificate.issuerCertificate;
    certificate = issuer === certificate ? undefined : issuer;
  }
  return chain;
}
