import type { ProcessExit } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { drained, readTail } from '../console-log.ts';
import { captureOf, type DirtyBase } from '../dirty-base.ts';
import type { Capture, CaptureTarget, ExitReport, MachineDescription, MicroVm } from '../driver.ts';
import { MachineExit } from '../machine-exit.ts';
import type { VmmProcess } from '../vmm-process.ts';
import type { FirecrackerClient } from './api-client.ts';
import type { ConsolePipe } from './console-pipe.ts';
import { INSIDE, type MachineLayout } from './machine-layout.ts';
import { removeRoot } from './machine-root.ts';
import {
  attemptedSnapshots,
  checkFree,
  checkHoles,
  countSnapshots,
  dropSnapshot,
  takeSnapshot,
} from './snapshot-files.ts';
import { hasSoundDiffs } from './version.ts';

export interface FirecrackerMachineParts {
  readonly description: MachineDescription;
  readonly layout: MachineLayout;
  readonly process: VmmProcess;
  readonly control: FirecrackerClient;
  readonly console: ConsolePipe;
  /** Settles when the guest's kernel prints that it has halted. */
  readonly halted: Promise<void>;
  /** Removes the machine's resources outside its run directory. */
  readonly release: () => Promise<void>;
}

/** From `FcExitCode`, src/vmm/src/lib.rs of Firecracker: its exit codes for fatal signals. */
const STATUS_MEANINGS: Readonly<Record<number, string>> = {
  148: ': it made a system call that its filter forbids',
  149: ': it could not access memory of its guest',
  150: ': it crashed',
  151: ': it exceeded its limit of file size',
  157: ': it crashed',
};

/** A running Firecracker. Survives {@link detach}; see `MicroVm` for what each method promises. */
export class FirecrackerMachine implements MicroVm {
  readonly description: MachineDescription;
  readonly exited: Promise<ExitReport>;
  readonly #layout: MachineLayout;
  readonly #process: VmmProcess;
  readonly #control: FirecrackerClient;
  readonly #console: ConsolePipe;
  readonly #releaseOutside: () => Promise<void>;
  readonly #exit: MachineExit;
  #hasHalted = false;

  constructor(parts: FirecrackerMachineParts) {
    this.description = parts.description;
    this.#layout = parts.layout;
    this.#process = parts.process;
    this.#control = parts.control;
    this.#console = parts.console;
    this.#releaseOutside = parts.release;
    // An exit closes the pipe first; checking then is quicker than the next poll.
    void parts.console.finished.then(() => parts.process.check());
    void parts.halted.then(() => this.#endHalted());
    this.#exit = new MachineExit({
      process: parts.process,
      release: () => this.#release(),
      evidence: (exit) => ({
        // The signal that kills a VMM whose guest has halted says nothing about the guest.
        exit: this.#hasHalted ? {} : exit,
        shutdownReason: this.#shutdownReason(exit),
        consolePath: this.description.spec.console.path,
        outputPath: this.#layout.output,
        logPath: this.#layout.log,
        statusMeanings: STATUS_MEANINGS,
      }),
    });
    this.exited = this.#exit.reported;
  }

  async pause(): Promise<void> {
    await this.#control.send({ method: 'PATCH', path: '/vm', body: { state: 'Paused' } });
  }

  async resume(): Promise<void> {
    await this.#control.send({ method: 'PATCH', path: '/vm', body: { state: 'Resumed' } });
  }

  async capture(base: DirtyBase, target: CaptureTarget): Promise<Capture> {
    if ((await this.#control.state()) !== 'Paused') {
      const what = `Machine ${this.description.spec.id} must be paused before it is captured.`;
      throw new TorporError('invalid_state', what);
    }
    const attempted = await attemptedSnapshots(this.#layout);
    const fullBecause = this.#diffObstacle(base, attempted);
    const kind = fullBecause === undefined ? 'Diff' : 'Full';
    await checkFree(target.statePath);
    await checkFree(target.memoryPath);
    if (kind === 'Diff') await checkHoles(this.#layout, target.memoryPath);
    const number = numberAfter(attempted, base);
    // Before Firecracker forgets what was written: if this fails, nothing is lost.
    await countSnapshots(this.#layout, number);
    await this.#writeSnapshot(kind, target);
    return {
      memoryPath: target.memoryPath,
      holes: kind === 'Diff' && base.kind === 'build' ? 'unchanged' : 'zero',
      number,
      ...(fullBecause === undefined ? {} : { fullBecause }),
    };
  }

  /** Why a diff would not contain all that was written since the base; undefined if it would. */
  #diffObstacle(base: DirtyBase, attempted: number | undefined): string | undefined {
    const { vmmVersion, spec } = this.description;
    const since = captureOf(base);
    if (since === undefined) return 'It is not known what was written since its last build.';
    if (attempted === undefined) return 'The count of its snapshots is lost or damaged.';
    if (since !== attempted) {
      return `Firecracker tracks what was written since snapshot ${attempted}, not ${since}.`;
    }
    if (hasSoundDiffs(vmmVersion, spec.memoryMiB)) return undefined;
    return `Firecracker ${vmmVersion} loses changes of a machine with ${spec.memoryMiB} MiB.`;
  }

  async #writeSnapshot(kind: 'Full' | 'Diff', target: CaptureTarget): Promise<void> {
    try {
      await this.#control.send({
        method: 'PUT',
        path: '/snapshot/create',
        body: {
          snapshot_type: kind,
          snapshot_path: INSIDE.snapshotState,
          mem_file_path: INSIDE.snapshotMemory,
        },
      });
      await takeSnapshot(this.#layout, target);
    } catch (error) {
      await dropSnapshot(this.#layout);
      throw error;
    }
  }

  stop(graceMs: number): Promise<void> {
    return this.#exit.stop(async () => {
      if (graceMs <= 0) return;
      await this.resume();
      const body = { action_type: 'SendCtrlAltDel' } as const;
      await this.#control.send({ method: 'PUT', path: '/actions', body });
      await this.#process.exitsWithin(graceMs);
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
    await this.#control.close();
    await this.#console.close();
  }

  /** Firecracker emulates no power switch: its process would keep running with a halted guest. */
  async #endHalted(): Promise<void> {
    this.#hasHalted = true;
    await this.#process.kill().catch(() => undefined);
  }

  #shutdownReason({ exitCode }: ProcessExit): string | undefined {
    if (this.#hasHalted) return 'guest-shutdown';
    return exitCode === 0 ? 'guest-reset' : undefined;
  }

  async #release(): Promise<void> {
    await drained(this.#console.finished);
    await this.#control.close();
    await this.#console.close();
    await removeRoot(this.#layout);
    await this.#releaseOutside();
  }
}

/** Never the number of the base: if this attempt fails, the next one must not mistake it for the base. */
function numberAfter(attempted: number | undefined, base: DirtyBase): number {
  return (attempted ?? captureOf(base) ?? 0) + 1;
}
