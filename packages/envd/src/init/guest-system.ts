import { openSync } from 'node:fs';
import { join } from 'node:path';
import { addEntropy, setHostname, setSystemClock } from '@torpor/linux';
import type { InitRequest } from '@torpor/protocol';
import { SystemFile } from './system-file.ts';

/** A clock with a smaller error is not set: that would only add a jump. */
const CLOCK_TOLERANCE_MS = 50;
/** Marks the line of /etc/hosts that is ours. */
const HOSTS_MARK = '# torpor: this sandbox';
const DEFAULT_HOSTS = '127.0.0.1\tlocalhost\n::1\tlocalhost\n';
const MIN_ENTROPY_BYTES = 32;
const MACHINE_ID = /^[0-9a-f]{32}\s*$/;

/** The kernel state that `/init` changes. */
export interface KernelControls {
  setClock(timeMs: number): void;
  addEntropy(bytes: Uint8Array): void;
  setHostname(name: string): void;
}

export interface GuestSystemOptions {
  /** The directory to use as /etc. */
  readonly etc?: string;
  readonly kernel?: KernelControls;
}

/** A step of `/init` that failed; the guest must not be used as this sandbox. */
export class InitStepError extends Error {
  override readonly name = 'InitStepError';

  constructor(step: string, cause: unknown) {
    super(`${step}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/**
 * Gives the system of a booted or restored guest the identity of this sandbox.
 *
 * Damage that the guest's programs did to its files must not prevent it from being resumed or
 * copied. So a value that this daemon has applied before, as at every resume of the same
 * sandbox, is skipped, with its file. In a copy only the steps that make it a distinct machine
 * must succeed: clock, entropy and host name, which are the kernel's, and that no program reads
 * the machine id of the original. The other files are changed where possible, and failures are
 * printed on the console.
 */
export class GuestSystem {
  readonly #kernel: KernelControls;
  readonly #hostnameFile: SystemFile;
  readonly #hosts: SystemFile;
  readonly #machineId: SystemFile;
  readonly #resolvConf: SystemFile;
  /** The values of earlier requests, by the names of their steps. */
  readonly #applied = new Map<string, string>();

  constructor(options: GuestSystemOptions = {}) {
    const { etc = '/etc' } = options;
    this.#kernel = options.kernel ?? openKernel();
    const file = (name: string, mode = 0o644) => new SystemFile(join(etc, name), mode);
    this.#hostnameFile = file('hostname');
    this.#hosts = file('hosts');
    this.#machineId = file('machine-id', 0o444);
    this.#resolvConf = file('resolv.conf');
  }

  /**
   * Applies a request, clock and entropy first. Throws
   * {@link InitStepError} at the first step that fails.
   */
  apply(request: InitRequest): void {
    const { entropy, hostname, machineId, nameservers, timestamp } = request;
    if (timestamp !== undefined) step('clock', () => this.#setClock(timestamp));
    if (entropy !== undefined) step('entropy', () => this.#addEntropy(entropy));
    this.#once('hostname', hostname, (name) => this.#setHostname(name));
    this.#once('machine-id', machineId, (id) => this.#setMachineId(id));
    this.#once('nameservers', nameservers?.map((it) => `nameserver ${it}\n`).join(''), (lines) =>
      leaveIfImpossible(() => this.#resolvConf.write(lines)),
    );
  }

  /** Runs a step unless its value is the one that was applied last. */
  #once(name: string, value: string | undefined, action: (value: string) => void): void {
    if (value === undefined || this.#applied.get(name) === value) return;
    step(name, () => action(value));
    this.#applied.set(name, value);
  }

  #setClock(timestamp: string): void {
    const timeMs = Date.parse(timestamp);
    if (Number.isNaN(timeMs)) throw new Error(`'${timestamp}' is not an RFC 3339 time`);
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
    leaveIfImpossible(() => this.#hostnameFile.write(`${hostname}\n`));
    const hosts = this.#hosts.read() ?? DEFAULT_HOSTS;
    const others = hosts.split('\n').filter((line) => line !== '' && !line.endsWith(HOSTS_MARK));
    const lines = [...others, `127.0.1.1\t${hostname}\t${HOSTS_MARK}`];
    leaveIfImpossible(() => this.#hosts.write(`${lines.join('\n')}\n`));
  }

  #setMachineId(id: string): void {
    try {
      this.#machineId.write(`${id}\n`);
    } catch (error) {
      // Without a readable id, no program takes this machine for another.
      if (MACHINE_ID.test(this.#machineId.read() ?? '')) throw error;
      console.error('envd:', error);
    }
  }
}

/** The kernel of this process. The device is opened now: programs may remove it later. */
function openKernel(): KernelControls {
  const random = openSync('/dev/urandom', 'r');
  return {
    setClock: setSystemClock,
    addEntropy: (bytes) => addEntropy(bytes, random),
    setHostname,
  };
}

function step(name: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    throw new InitStepError(name, error);
  }
}

/** For a file that a sandbox does not need. */
function leaveIfImpossible(write: () => void): void {
  try {
    write();
  } catch (error) {
    console.error('envd:', error);
  }
}
