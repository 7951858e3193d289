import { createHash, timingSafeEqual } from 'node:crypto';

/**
 * The secret of this sandbox. Unset until the first `/init` with one; until then every request
 * is accepted, as in a guest without an identity.
 */
export class AccessToken {
  #value: string | undefined;

  constructor(value?: string) {
    this.#value = value === '' ? undefined : value;
  }

  /** The secret itself, to check a file's signature against. */
  get value(): string | undefined {
    return this.#value;
  }

  get isSet(): boolean {
    return this.#value !== undefined;
  }

  set(value: string): void {
    this.#value = value;
  }

  /** Whether a request that carries this token may pass. Constant-time for any wrong token. */
  allows(candidate: string | undefined): boolean {
    if (this.#value === undefined) return true;
    return equalInConstantTime(candidate ?? '', this.#value);
  }
}

/** Whether two secrets are equal; the time does not depend on how much of them is. */
export function equalInConstantTime(left: string, right: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(left), digest(right));
}
