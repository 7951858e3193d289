import { createHash, timingSafeEqual } from 'node:crypto';

/**
 * The secret of this sandbox. Unset until the first `/init` that brings one;
 * until then every request is let through, as in a template that is being built.
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

  /** Whether a request that carries this token may pass. Takes the same time for any wrong token. */
  allows(candidate: string | undefined): boolean {
    if (this.#value === undefined) return true;
    return equalInConstantTime(candidate ?? '', this.#value);
  }
}

/** Whether two secrets are the same; the time does not tell how much of them is. */
export function equalInConstantTime(left: string, right: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(left), digest(right));
}
