/**
 * Who a certificate of the control plane's authority is for. Control planes and agents trust
 * each other by this name alone: an agent accepts only control planes, and a control plane
 * accepts a host only as itself. Host names and addresses mean nothing here, because they change.
 */
import { createHash, X509Certificate } from 'node:crypto';

/** A URI; it is the only subject alternative name of its certificate. */
export type TlsIdentity = 'torpor:control-plane' | `torpor:host/${string}`;

export const CONTROL_PLANE_IDENTITY: TlsIdentity = 'torpor:control-plane';

const HOST_PREFIX = 'torpor:host/';
const NAME = /^URI:(torpor:control-plane|torpor:host\/[a-z0-9]+)$/;

export function hostIdentity(hostId: string): TlsIdentity {
  return `${HOST_PREFIX}${hostId}`;
}

/** The id of the host that an identity names; undefined if it names no host. */
export function hostIdOf(identity: TlsIdentity): string | undefined {
  return identity.startsWith(HOST_PREFIX) ? identity.slice(HOST_PREFIX.length) : undefined;
}

/** The identity in the field `subjectAltName` of a certificate of Node; undefined for any other text. */
export function parseIdentity(subjectAltName: string | undefined): TlsIdentity | undefined {
  return NAME.exec(subjectAltName ?? '')?.[1] as TlsIdentity | undefined;
}

/**
 * The identity of a certificate that the authority has issued; undefined for any other one. Its
 * validity in time is not checked.
 */
export function issuedIdentity(
  certificate: X509Certificate,
  authority: X509Certificate,
): TlsIdentity | undefined {
  const isIssued = certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
  return isIssued && !certificate.ca ? parseIdentity(certificate.subjectAltName) : undefined;
}

/** Whether a certificate is valid at this time. */
export function isCurrent(certificate: X509Certificate, now: Date = new Date()): boolean {
  return certificate.validFromDate <= now && now <= certificate.validToDate;
}

/** SHA-256 of a certificate in PEM, as 64 hexadecimal digits. */
export function certificateFingerprint(pem: string): string {
  return createHash('sha256').update(new X509Certificate(pem).raw).digest('hex');
}
