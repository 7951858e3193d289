/**
 * How machines become hosts and stay that. A token is good for one key: so an agent whose
 * response was lost sends the same request again, and nobody else can use the token. A renewal
 * ends nothing: the old certificate stays valid, so a lost response of it harms nobody either.
 */
import { TorporError } from '@torpor/protocol';
import {
  hostIdentity,
  hostIdOf,
  isCurrent,
  issuedIdentity,
  parseJoinToken,
  type TlsCaller,
} from '@torpor/protocol/tls';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import type { Authority, IssuedCertificate, SigningRequest } from './authority.ts';
import { sha256 } from './digest.ts';
import { type Heartbeat, HostRepository } from './repository.ts';

interface Parts {
  readonly db: Kysely<Database>;
  readonly authority: Authority;
  /** How long the certificates of hosts are valid. */
  readonly lifetimeMs: number;
  readonly logger: Logger;
  /** Called when the address of a host has changed. */
  readonly onChange: () => void;
  readonly onEvents: () => void;
}

export class Enrolment {
  readonly #parts: Parts;
  readonly #hosts: HostRepository;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#hosts = new HostRepository(parts.db);
  }

  /** The first certificate of the host that the token is for. Throws `unauthorized`, `invalid_request`. */
  async join(token: string, csr: Uint8Array): Promise<IssuedCertificate & { hostId: string }> {
    const request = await this.#parts.authority.parseRequest(csr);
    const hostId = await this.#redeem(token, request.keyHash);
    const issued = await this.#issue(hostId, request);
    this.#parts.logger.info({ host: hostId }, 'Host joined');
    return { ...issued, hostId };
  }

  /**
   * Another certificate for a host. Its old one may have expired: deleting the host is what
   * ends its rights, and not the time that its machine was off. Throws `unauthorized`,
   * `not_found`, `invalid_request`.
   */
  async renew(caller: TlsCaller, csr: Uint8Array): Promise<IssuedCertificate> {
    const hostId = this.#callingHost(caller);
    const request = await this.#parts.authority.parseRequest(csr);
    return this.#issue(hostId, request);
  }

  /** Throws `unauthorized`, `not_found`. */
  async heartbeat(caller: TlsCaller, report: Heartbeat): Promise<void> {
    const hostId = this.#callingHost(caller);
    if (caller.certificate === undefined || !isCurrent(caller.certificate)) {
      throw new TorporError('unauthorized', 'The certificate of the host has expired.', {
        remedy: 'The agent renews it by itself.',
      });
    }
    const effect = await this.#hosts.heartbeat(hostId, report);
    if (effect === undefined) throw hostDeleted(hostId);
    if (effect.isUp) this.#parts.onEvents();
    if (effect.isMoved) this.#parts.onChange();
  }

  /** The host that a caller has proven to be; it may have been deleted. Throws `unauthorized`. */
  #callingHost({ certificate }: TlsCaller): string {
    const identity =
      certificate === undefined
        ? undefined
        : issuedIdentity(certificate, this.#parts.authority.x509);
    const hostId = identity === undefined ? undefined : hostIdOf(identity);
    if (hostId !== undefined) return hostId;
    throw new TorporError('unauthorized', 'The caller has no certificate of a host.', {
      remedy: 'Join the host with a token.',
    });
  }

  /** Binds the token to the key, unless it is bound to another. */
  async #redeem(token: string, keyHash: string): Promise<string> {
    const secret = parseJoinToken(token)?.secret;
    const redeemed = await this.#parts.db
      .updateTable('host_tokens')
      .set({ key_hash: keyHash })
      .where('token_hash', '=', sha256(secret ?? ''))
      .where('expires_at', '>', new Date())
      .where(({ eb, or }) => or([eb('key_hash', 'is', null), eb('key_hash', '=', keyHash)]))
      .returning('host_id')
      .executeTakeFirst();
    if (redeemed !== undefined) return redeemed.host_id;
    throw new TorporError('unauthorized', 'The token is not valid, has expired, or was used.', {
      remedy: 'Make another token for the host.',
    });
  }

  async #issue(hostId: string, request: SigningRequest): Promise<IssuedCertificate> {
    const { db, authority, lifetimeMs } = this.#parts;
    const issued = await authority.issue(hostIdentity(hostId), request, lifetimeMs);
    const row = await db
      .updateTable('hosts')
      .set({ certificate_expires_at: issued.expiresAt })
      .where('id', '=', hostId)
      .where('kind', '=', 'joined')
      .returning('id')
      .executeTakeFirst();
    if (row === undefined) throw hostDeleted(hostId);
    return issued;
  }
}

function hostDeleted(hostId: string): TorporError {
  return new TorporError('not_found', `The host ${hostId} was deleted.`, {
    remedy: 'To add the machine again, remove its enrolment and join it with a new token.',
  });
}
