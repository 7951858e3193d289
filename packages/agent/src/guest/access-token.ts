import { createHmac } from 'node:crypto';

/**
 * Secrets shared by the host agent and one guest, derived from the key of the data directory,
 * so that nothing is stored per sandbox and a restarted agent has access to the guests that it
 * adopts.
 */
export class GuestSecrets {
  readonly #key: Buffer;

  /** `key`: the 32 bytes of the data directory's key file. */
  constructor(key: Buffer) {
    this.#key = key;
  }

  /** 64 hexadecimal digits: what envd expects in `X-Access-Token`. */
  accessToken(sandboxId: string): string {
    return this.#derive('access-token', sandboxId);
  }

  /** 32 hexadecimal digits for the guest's /etc/machine-id (machine-id(5)). */
  machineId(sandboxId: string): string {
    return this.#derive('machine-id', sandboxId).slice(0, 32);
  }

  #derive(purpose: string, sandboxId: string): string {
    return createHmac('sha256', this.#key).update(`${purpose}\0${sandboxId}`).digest('hex');
  }
}
