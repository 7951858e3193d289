import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { addEntropy, setHostname, setSystemClock } from '@torpor/linux';
import type { InitRequest } from '@torpor/protocol';

/** A clock that is closer than this is left alone: setting it would only add a jump. */
const CLOCK_TOLERANCE_MS = 50;
/** Marks the line of /etc/hosts that is ours. */
const HOSTS_MARK = '# torpor: this sandbox';
const MIN_ENTROPY_BYTES = 32;

/** What of the kernel `/init` changes. */
export interface KernelControls {
  setClock(timeMs: number): void;
  addEntropy(bytes: Uint8Array): void;
  setHostname(name: string): void;
}

const REAL_KERNEL: KernelControls = {
  setClock: setSystemClock,
  addEntropy,
  setHostname,
};

/** A step of `/init` that failed; the guest must not count as this sandbox. */
export class InitStepError extends Error {
  override readonly name = 'InitStepError';

  constructor(step: string, cause: unknown) {
    super(`${step}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** Makes the system of a booted or restored guest this sandbox's own. */
export class GuestSystem {
  readonly #etc: string;
  readonly #kernel: KernelControls;

  /** @param etc The directory that stands for /etc. */
  constructor(etc = '/etc', kernel: KernelControls = REAL_KERNEL) {
    this.#etc = etc;
    this.#kernel = kernel;
  }

  /**
   * Applies what the request says, first what time and chance depend on. Throws
   * {@link InitStepError} at the first step that fails.
   */
  apply(request: InitRequest): void {
    const { entropy, hostname, machineId, nameservers, timestamp } = request;
    if (timestamp !== undefined) step('clock', () => this.#setClock(timestamp));
    if (entropy !== undefined) step('entropy', () => this.#addEntropy(entropy));
    if (machineId !== undefined) {
      step('machine-id', () => this.#write('machine-id', `${machineId}\n`, 0o444));
    }
    if (hostname !== undefined) step('hostname', () => this.#setHostname(hostname));
    if (nameservers !== undefined) {
      const lines = nameservers.map((address) => `nameserver ${address}\n`);
      step('nameservers', () => this.#write('resolv.conf', lines.join('')));
    }
  }

  #setClock(timestamp: string): void {
    const timeMs = Date.parse(timestamp);
    if (Number.isNaN(timeMs)) throw new Error(`'${timestamp}' is not a time in RFC 3339`);
    if (Math.abs(timeMs - Date.now()) > CLOCK_TOLERANCE_MS) this.#kernel.setClock(timeMs);
  }

  #addEntropy(entropy: string): void {
    const bytes = Buffer.from(entropy, 'base64');
    if (bytes.length < MIN_ENTROPY_BYTES) {
      throw new Error(`at least ${MIN_ENTROPY_BYTES} bytes are needed, not ${bytes.length}`);
    }
    this.#kernel.addEntropy(bytes);
  }

  #setHostname(hostname: string): void {
    this.#kernel.setHostname(hostname);
    this.#write('hostname', `${hostname}\n`);
    const hosts = this.#read('hosts') ?? '127.0.0.1\tlocalhost\n::1\tlocalhost\n';
    const others = hosts.split('\n').filter((line) => line !== '' && !line.endsWith(HOSTS_MARK));
    const lines = [...others, `127.0.1.1\t${hostname}\t${HOSTS_MARK}`];
    this.#write('hosts', `${lines.join('\n')}\n`);
  }

  #read(name: string): string | undefined {
    try {
      return readFileSync(join(this.#etc, name), 'utf8');
    } catch {
      return undefined;
    }
  }

  /**
   * Replaces a file at once: nobody reads half of it, and a dangling link does not matter.
   * Synchronously: the files are tiny, and in a restored guest, where all code is cold, every
   * turn through the thread pool takes long.
   */
  #write(name: string, content: string, mode = 0o644): void {
    const path = join(this.#etc, name);
    const staged = `${path}.torpor-new`;
    rmSync(staged, { force: true });
    writeFileSync(staged, content, { mode });
    renameSync(staged, path);
  }
}

function step(name: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    throw new InitStepError(name, error);
  }
}
