import { TorporError } from '@torpor/protocol';
import type { TlsCredentials } from '@torpor/protocol/tls';
import type { Logger } from 'pino';
import type { Authority } from './authority.ts';

/** It is made again at each start, and renewed when two thirds of its time have passed. */
const DEFAULT_LIFETIME_MS = 24 * 3_600_000;
const RENEW_AFTER = 2 / 3;
const RETRY_MS = 60_000;

/** The certificate of this control plane, which is kept in memory only. */
export class OwnCertificate implements Disposable {
  readonly #authority: Authority;
  readonly #lifetimeMs: number;
  readonly #logger: Logger;
  readonly #listeners = new Set<(credentials: TlsCredentials) => void>();
  #current: TlsCredentials;
  #timer: NodeJS.Timeout | undefined;

  private constructor(
    current: TlsCredentials,
    authority: Authority,
    lifetimeMs: number,
    logger: Logger,
  ) {
    this.#current = current;
    this.#authority = authority;
    this.#lifetimeMs = lifetimeMs;
    this.#logger = logger;
    this.#schedule(lifetimeMs * RENEW_AFTER);
  }

  static async issue(
    authority: Authority,
    logger: Logger,
    lifetimeMs: number = DEFAULT_LIFETIME_MS,
  ): Promise<OwnCertificate> {
    const current = await authority.issueControlPlane(lifetimeMs);
    return new OwnCertificate(current, authority, lifetimeMs, logger);
  }

  get current(): TlsCredentials {
    return this.#current;
  }

  onRenewed(listener: (credentials: TlsCredentials) => void): void {
    this.#listeners.add(listener);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => void this.#renew(), ms).unref();
  }

  async #renew(): Promise<void> {
    try {
      this.#current = await this.#authority.issueControlPlane(this.#lifetimeMs);
      for (const listener of this.#listeners) listener(this.#current);
      this.#schedule(this.#lifetimeMs * RENEW_AFTER);
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#logger.error({ err }, 'Could not renew the certificate; will retry');
      this.#schedule(Math.min(RETRY_MS, this.#lifetimeMs / 10));
    }
  }
}
