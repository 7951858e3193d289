/**
 * How machines become hosts and stay that. A token is good for one key: so an agent whose
 * response was lost sends the same request again, and nobody else can use the token. A renewal
 * ends nothing: the old certificate stays valid, so a lost response of it harms nobody either.
 */
import type { X509Certificate } from 'node:crypto';
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
import { assertNotReplaced, type Heartbeat, HostRepository } from './repository.ts';

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
    const { hostId, isFirst } = await this.#redeem(token, request.keyHash);
    if (isFirst) await this.#replaceMachine(hostId);
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
    const { hostId, certificate } = this.#callingHost(caller);
    const host = await this.#hosts.find(hostId);
    if (host === undefined) throw hostDeleted(hostId);
    assertNotReplaced(host, this.#parts.authority.issueTime(certificate));
    const request = await this.#parts.authority.parseRequest(csr);
    return this.#issue(hostId, request);
  }

  /** Throws `unauthorized`, `not_found`, and `conflict` while another machine reports as the host. */
  async heartbeat(caller: TlsCaller, report: Heartbeat): Promise<void> {
    const { hostId, certificate } = this.#callingHost(caller);
    if (!isCurrent(certificate)) {
      throw new TorporError('unauthorized', 'The certificate of the host has expired.', {
        remedy: 'The agent renews it by itself.',
      });
    }
    const issuedAt = this.#parts.authority.issueTime(certificate);
    const effect = await this.#hosts.heartbeat(hostId, report, issuedAt);
    if (effect === undefined) throw hostDeleted(hostId);
    if (effect.isUp) this.#parts.onEvents();
    if (effect.isMoved) this.#parts.onChange();
  }

  /** The host that a caller has proven to be; it may have been deleted. Throws `unauthorized`. */
  #callingHost({ certificate }: TlsCaller): {
    readonly hostId: string;
    readonly certificate: X509Certificate;
  } {
    const identity = certificate && issuedIdentity(certificate, this.#parts.authority.x509);
    const hostId = identity && hostIdOf(identity);
    if (certificate !== undefined && hostId !== undefined) return { hostId, certificate };
    throw new TorporError('unauthorized', 'The caller has no certificate of a host.', {
      remedy: 'Join the host with a token.',
    });
  }

  /** From now on, certificates that the host got before are refused: another machine may have them. */
  async #replaceMachine(hostId: string): Promise<void> {
    // Certificates have times in seconds.
    const joinedAt = new Date(Math.floor(Date.now() / 1000) * 1000);
    await this.#parts.db
      .updateTable('hosts')
      .set({ joined_at: joinedAt, machine: null })
      .where('id', '=', hostId)
      .execute();
  }

  /** Binds the token to the key, unless it is bound to another. */
  async #redeem(
    token: string,
    keyHash: string,
  ): Promise<{ readonly hostId: string; readonly isFirst: boolean }> {
    const { db } = this.#parts;
    const tokenHash = sha256(parseJoinToken(token)?.secret ?? '');
    const bound = await db
      .updateTable('host_tokens')
      .set({ key_hash: keyHash })
      .where('token_hash', '=', tokenHash)
      .where('expires_at', '>', new Date())
      .where('key_hash', 'is', null)
      .returning('host_id')
      .executeTakeFirst();
    if (bound !== undefined) return { hostId: bound.host_id, isFirst: true };
    const repeated = await db
      .selectFrom('host_tokens')
      .select('host_id')
      .where('token_hash', '=', tokenHash)
      .where('expires_at', '>', new Date())
      .where('key_hash', '=', keyHash)
      .executeTakeFirst();
    if (repeated !== undefined) return { hostId: repeated.host_id, isFirst: false };
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
    remedy: 'To add the machine again, create a host and join it with that token.',
  });
}
