import type { ProcessExit } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import type { ExitReport } from './driver.ts';
import { type ExitEvidence, reportExit } from './exit-report.ts';
import type { VmmProcess } from './vmm-process.ts';

export interface MachineExitOptions {
  readonly process: VmmProcess;
  /** Releases what only a running machine needs; called once the process has exited. */
  readonly release: () => Promise<void>;
  /** What the driver knows about the exit; called after `release`, when the console is complete. */
  readonly evidence: (exit: ProcessExit) => Omit<ExitEvidence, 'vmm' | 'intended'>;
}

/** How a machine exits, by itself or because its driver stops it, and the report of it. */
export class MachineExit {
  /** Never rejects. Pending if the process is no longer watched. */
  readonly reported: Promise<ExitReport>;
  readonly #options: MachineExitOptions;
  /** Set when the driver itself stops the machine: the reason to report. */
  #intended: string | undefined;

  constructor(options: MachineExitOptions) {
    this.#options = options;
    this.reported = options.process.exited.then((exit) => this.#report(exit));
  }

  /**
   * Stops the machine with `shutDown`, which asks the guest and the VMM to exit and waits for
   * it. If it throws, or if the process still runs afterwards, the process is killed.
   */
  async stop(shutDown: () => Promise<void>): Promise<void> {
    this.#intended ??= 'The machine was stopped.';
    try {
      await shutDown();
    } catch {
      // A VMM that does not respond is killed, like one that does not exit.
    } finally {
      await this.#killProcess();
    }
  }

  async kill(): Promise<void> {
    this.#intended ??= 'The machine was killed.';
    await this.#killProcess();
  }

  async #killProcess(): Promise<void> {
    await this.#options.process.kill();
    await this.reported;
  }

  /** A report without a console's tail is better than none. */
  async #report(exit: ProcessExit): Promise<ExitReport> {
    const { process, release, evidence } = this.#options;
    const vmm = process.name;
    try {
      await release();
      return await reportExit({ vmm, intended: this.#intended, ...evidence(exit) });
    } catch (error) {
      const reason = `${vmm} exited; it is not known how: ${TorporError.from(error).message}`;
      return { reason: this.#intended ?? reason, ...exit, consoleTail: [] };
    }
  }
}
