import { TorporError } from '@torpor/protocol';

const FIRST_UID = 900_000;
/** Ids per data directory, and the number of ranges. */
const IDS = 4096;
const BLOCKS = 16;

/**
 * Unprivileged user ids for the VMMs, one per sandbox, so that a VMM that a guest has broken
 * out of can neither signal nor trace the others. The ids start at 900000, above what
 * distributions, systemd and container tools hand out; two data directories on one machine
 * mostly use different ones.
 */
export class VmmUsers {
  readonly #first: number;
  readonly #taken = new Set<number>();

  /** `instance`: hexadecimal tag of the data directory. */
  constructor(instance: string) {
    this.#first = FIRST_UID + (Number.parseInt(instance, 16) % BLOCKS) * IDS;
  }

  /** Throws `no_hosts_available` when all are in use. */
  acquire(): number {
    for (let uid = this.#first; uid < this.#first + IDS; uid++) {
      if (this.#taken.has(uid)) continue;
      this.#taken.add(uid);
      return uid;
    }
    throw new TorporError(
      'no_hosts_available',
      `This host already runs ${IDS} sandboxes, the maximum.`,
    );
  }

  reserve(uid: number): void {
    this.#taken.add(uid);
  }

  release(uid: number): void {
    this.#taken.delete(uid);
  }
}
