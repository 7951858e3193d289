import { readFile, rm, writeFile } from 'node:fs/promises';
import { drained, readTail } from '../console-log.ts';
import type { DirtyBase } from '../dirty-base.ts';
import type { Capture, CaptureTarget, ExitReport, MachineDescription, MicroVm } from '../driver.ts';
import { MachineExit } from '../machine-exit.ts';
import type { VmmProcess } from '../vmm-process.ts';
import type { ConsoleReader } from './console-reader.ts';
import { saveDeviceState } from './migration.ts';
import type { QmpClient, QmpEvent } from './qmp-client.ts';
import { runFiles } from './run-files.ts';

export interface QemuMachineParts {
  readonly description: MachineDescription;
  readonly process: VmmProcess;
  readonly control: QmpClient;
  readonly console: ConsoleReader;
}

const QUIT_TIMEOUT_MS = 3_000;

/** A running QEMU. Survives {@link detach}; see `MicroVm` for what each method promises. */
export class QemuMachine implements MicroVm {
  readonly description: MachineDescription;
  readonly exited: Promise<ExitReport>;
  readonly #process: VmmProcess;
  readonly control: QmpClient;
  readonly #console: ConsoleReader;
  readonly #exit: MachineExit;
  /** The state file has the machine's state, and the machine has not run since. */
  #isSaved = false;
  #shutdownReason: string | undefined;

  constructor(parts: QemuMachineParts) {
    this.description = parts.description;
    this.#process = parts.process;
    this.control = parts.control;
    this.#console = parts.console;
    parts.control.onEvent((event) => this.#note(event));
    // An exit closes the connection first; checking then is quicker than the next poll.
    void parts.control.closed.then(() => parts.process.check());
    this.#exit = new MachineExit({
      process: parts.process,
      release: () => this.#release(),
      evidence: (exit) => ({
        exit,
        shutdownReason: this.#shutdownReason,
        consolePath: this.description.spec.console.path,
        outputPath: runFiles(this.description.spec.runDirectory).output,
      }),
    });
    this.exited = this.#exit.reported;
  }

  async pause(): Promise<void> {
    await this.control.execute('stop');
  }

  async resume(): Promise<void> {
    await this.control.execute('cont');
    this.#isSaved = false;
  }

  /** RAM is a file: it has all of RAM, or all that was ever touched, whatever the base is. */
  async capture(_base: DirtyBase, { statePath }: CaptureTarget): Promise<Capture> {
    const { spec, memoryOrigin } = this.description;
    const { state } = runFiles(spec.runDirectory);
    // QEMU does not save a machine twice that has not run in between.
    if (!this.#isSaved) await saveDeviceState(this.control, this.description);
    this.#isSaved = true;
    try {
      await writeFile(statePath, await readFile(state), { mode: 0o600 });
    } catch (error) {
      await rm(statePath, { force: true });
      throw error;
    }
    return {
      memoryPath: spec.memoryFile,
      holes: memoryOrigin === 'userfaultfd' ? 'unchanged' : 'zero',
      number: 0,
    };
  }

  stop(graceMs: number): Promise<void> {
    return this.#exit.stop(async () => {
      if (graceMs > 0) {
        await this.control.execute('cont');
        await this.control.execute('system_powerdown');
        if (await this.#process.exitsWithin(graceMs)) return;
      }
      // An orderly exit writes out QEMU's own buffers of the disks.
      await this.control.execute('quit', undefined, QUIT_TIMEOUT_MS);
      await this.#process.exitsWithin(QUIT_TIMEOUT_MS);
    });
  }

  kill(): Promise<void> {
    return this.#exit.kill();
  }

  readConsole(maxBytes: number): Promise<Buffer> {
    return readTail(this.description.spec.console.path, maxBytes);
  }

  async detach(): Promise<void> {
    this.#process.unwatch();
    this.control.close();
    await this.#console.close();
  }

  #note(event: QmpEvent): void {
    if (event.event === 'SHUTDOWN') this.#shutdownReason = String(event.data.reason);
  }

  async #release(): Promise<void> {
    await drained(this.#console.finished);
    this.control.close();
    await this.#console.close();
    await removeRunFiles(this.description.spec.runDirectory);
  }
}

/** Removes what only a running QEMU needs; its output stays, to explain its exit. */
export async function removeRunFiles(runDirectory: string): Promise<void> {
  const { control, console, state } = runFiles(runDirectory);
  for (const path of [control, console, state]) await rm(path, { force: true });
}
