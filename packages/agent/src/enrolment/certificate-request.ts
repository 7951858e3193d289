import 'reflect-metadata';
import { generateKeyPairSync, webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;

/** A new P-256 key, PKCS #8 in PEM. It never leaves this machine. */
export function newPrivateKey(): string {
  return generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  }).privateKey;
}

/** A request for a certificate of this key (PKCS #10), in DER. Only the key counts in it. */
export async function certificateRequest(privateKey: string): Promise<Uint8Array<ArrayBuffer>> {
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: 'CN=Torpor host',
    keys: await keyPairOf(privateKey),
    signingAlgorithm: ALGORITHM,
  });
  return new Uint8Array(request.rawData);
}

async function keyPairOf(privateKey: string): Promise<webcrypto.CryptoKeyPair> {
  const pkcs8 = x509.PemConverter.decodeFirst(privateKey);
  const key = await webcrypto.subtle.importKey('pkcs8', pkcs8, ALGORITHM, true, ['sign']);
  const { d: _, key_ops: __, ...publicPart } = await webcrypto.subtle.exportKey('jwk', key);
  const publicKey = await webcrypto.subtle.importKey('jwk', publicPart, ALGORITHM, true, [
    'verify',
  ]);
  return { privateKey: key, publicKey };
}
