/**
 * The authority of a database: it issues the certificates with which control planes and hosts
 * know each other, and nothing else trusts it. It is made once per database; every control
 * plane on the database can issue, because its key is a row, encrypted with the secret key.
 *
 * A certificate is not revoked: that of a host is good only for itself, and a control plane
 * looks its row up in each call. So a deleted host can do nothing with it.
 */
import 'reflect-metadata';
import { generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { TorporError } from '@torpor/protocol';
import {
  CONTROL_PLANE_IDENTITY,
  certificateFingerprint,
  type TlsCredentials,
  type TlsIdentity,
} from '@torpor/protocol/tls';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { SecretBox } from '../auth/secret-box.ts';
import type { AuthorityTable, Database } from '../database/schema.ts';
import { sha256 } from './digest.ts';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const SECRET_PURPOSE = 'authority';
/** Serialises first starts that share a database. */
const AUTHORITY_LOCK = '128077194588020';
const DAY_MS = 24 * 3_600_000;
const AUTHORITY_LIFETIME_MS = 20 * 365 * DAY_MS;
/** Clocks of the machines may differ by this much. */
const CLOCK_SKEW_MS = 5 * 60_000;

/** What a certificate signing request asks for: only its key counts. */
export interface SigningRequest {
  readonly publicKey: CryptoKey;
  /** SHA-256 of the key, as 64 hexadecimal digits. */
  readonly keyHash: string;
}

export interface IssuedCertificate {
  /** PEM. */
  readonly certificate: string;
  readonly expiresAt: Date;
}

export class Authority {
  /** PEM. */
  readonly certificate: string;
  readonly x509: X509Certificate;
  /** SHA-256 of its certificate. */
  readonly fingerprint: string;
  readonly #issuer: x509.X509Certificate;
  readonly #key: CryptoKey;

  private constructor(certificate: string, key: CryptoKey) {
    this.certificate = certificate;
    this.x509 = new X509Certificate(certificate);
    this.fingerprint = certificateFingerprint(certificate);
    this.#issuer = new x509.X509Certificate(certificate);
    this.#key = key;
  }

  /** The authority of the database, made if there is none. Throws `host_setup` for another secret key. */
  static async open(db: Kysely<Database>, secrets: SecretBox): Promise<Authority> {
    const row = await db.transaction().execute((transaction) => ensureRow(transaction, secrets));
    const pem = secrets.open(SECRET_PURPOSE, row.private_key);
    return new Authority(row.certificate, await importPrivateKey(pem));
  }

  /** Reads a request in DER. Throws `invalid_request` unless it is for a P-256 key and signed with that. */
  async parseRequest(der: Uint8Array): Promise<SigningRequest> {
    try {
      const request = new x509.Pkcs10CertificateRequest(new Uint8Array(der));
      const publicKey = await request.publicKey.export(ALGORITHM, ['verify']);
      if (await request.verify()) return { publicKey, keyHash: sha256(request.publicKey.rawData) };
    } catch {
      // Reported below, like a signature of another key.
    }
    throw new TorporError(
      'invalid_request',
      'The certificate signing request is not one for a P-256 key, signed with that key.',
    );
  }

  /** A certificate for the key of the request, as server and as client. */
  async issue(
    identity: TlsIdentity,
    { publicKey }: Pick<SigningRequest, 'publicKey'>,
    lifetimeMs: number,
  ): Promise<IssuedCertificate> {
    const now = Date.now();
    const expiresAt = new Date(now + lifetimeMs);
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: 'CN=Torpor',
      issuer: this.#issuer.subject,
      notBefore: new Date(now - CLOCK_SKEW_MS),
      notAfter: expiresAt,
      publicKey,
      signingKey: this.#key,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([
          x509.ExtendedKeyUsage.serverAuth,
          x509.ExtendedKeyUsage.clientAuth,
        ]),
        new x509.SubjectAlternativeNameExtension([{ type: 'url', value: identity }], true),
      ],
    });
    return { certificate: certificate.toString('pem'), expiresAt };
  }

  /** When a certificate was issued, in whole seconds. */
  issueTime({ validFromDate }: X509Certificate): Date {
    return new Date(validFromDate.getTime() + CLOCK_SKEW_MS);
  }

  /** A new key of a control plane with its certificate. */
  async issueControlPlane(lifetimeMs: number): Promise<TlsCredentials & { expiresAt: Date }> {
    const { publicKey, privateKey } = newKeyPair();
    const issued = await this.issue(
      CONTROL_PLANE_IDENTITY,
      { publicKey: await importPublicKey(publicKey) },
      lifetimeMs,
    );
    return { ...issued, privateKey };
  }
}

async function ensureRow(
  transaction: Transaction<Database>,
  secrets: SecretBox,
): Promise<Pick<AuthorityTable, 'certificate' | 'private_key'>> {
  await sql`select pg_advisory_xact_lock(${sql.lit(AUTHORITY_LOCK)}::bigint)`.execute(transaction);
  const known = await transaction.selectFrom('authority').selectAll().executeTakeFirst();
  if (known !== undefined) return known;
  const { certificate, privateKey } = await newAuthority();
  const row = { certificate, private_key: secrets.seal(SECRET_PURPOSE, privateKey) };
  await transaction
    .insertInto('authority')
    .values({ id: 1, ...row })
    .execute();
  return row;
}

async function newAuthority(): Promise<TlsCredentials> {
  const { publicKey, privateKey } = newKeyPair();
  const now = Date.now();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    // Unique: an agent that knows another authority must not take this one for it.
    name: `CN=Torpor authority ${randomBytes(6).toString('hex')}`,
    notBefore: new Date(now - CLOCK_SKEW_MS),
    notAfter: new Date(now + AUTHORITY_LIFETIME_MS),
    keys: {
      publicKey: await importPublicKey(publicKey),
      privateKey: await importPrivateKey(privateKey),
    },
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
    ],
  });
  return { certificate: certificate.toString('pem'), privateKey };
}

/** P-256, in PEM. */
function newKeyPair(): { readonly publicKey: string; readonly privateKey: string } {
  return generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
}

function importPrivateKey(pem: string): Promise<CryptoKey> {
  return crypto.subtle.importKey('pkcs8', derOf(pem), ALGORITHM, false, ['sign']);
}

function importPublicKey(pem: string): Promise<CryptoKey> {
  return crypto.subtle.importKey('spki', derOf(pem), ALGORITHM, true, ['verify']);
}

function derOf(pem: string): ArrayBuffer {
  return x509.PemConverter.decodeFirst(pem);
}

/** 159 random bits, positive; RFC 5280, section 4.1.2.2. */
function serialNumber(): string {
  const bytes = randomBytes(20);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}
