import { X509Certificate } from 'node:crypto';
import { TorporError } from '@torpor/protocol';
import { certificateFingerprint, isCurrent } from '@torpor/protocol/tls';
import { readEnrolment } from './enrolment-file.ts';
import { addressOf, fetchAuthority } from './join.ts';

/** How a machine that has joined stands with its control plane. */
export interface EnrolmentStatus {
  readonly hostId: string;
  /** Where the control plane listens for agents. */
  readonly url: string;
  readonly expiresAt: Date;
  /** Why the machine cannot report to it now, as far as can be seen without an agent. */
  readonly problem?: TorporError;
}

/** Undefined if the machine has not joined. Throws `host_setup` for a damaged file. */
export async function enrolmentStatus(dataDir: string): Promise<EnrolmentStatus | undefined> {
  const known = await readEnrolment(dataDir);
  if (known === undefined) return undefined;
  const certificate = new X509Certificate(known.certificate);
  const status = {
    hostId: known.host_id,
    url: known.url,
    expiresAt: certificate.validToDate,
  };
  try {
    await fetchAuthority(addressOf(known.url), certificateFingerprint(known.authority));
  } catch (reason) {
    return { ...status, problem: TorporError.from(reason) };
  }
  if (isCurrent(certificate)) return status;
  const problem = new TorporError('host_setup', 'The certificate is not valid at this time.', {
    remedy: 'Check the clock. If it is right, start the agent, which renews the certificate.',
  });
  return { ...status, problem };
}
