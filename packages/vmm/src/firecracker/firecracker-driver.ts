import { rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import type {
  MachineDescription,
  MachineSpec,
  MicroVm,
  RestoreSource,
  VmmDriver,
} from '../driver.ts';
import { HUNG_AFTER_MS } from '../hung-timeout.ts';
import { checkMachineSpec } from '../machine-spec.ts';
import { exitedWhileStarting, explainStartFailure } from '../start-failure.ts';
import { VmmProcess } from '../vmm-process.ts';
import { FirecrackerClient, FirecrackerFault } from './api-client.ts';
import { ConsolePipe, makeConsolePipe, openForFirecracker } from './console-pipe.ts';
import type { FirecrackerInstallation } from './find-firecracker.ts';
import { FirecrackerMachine } from './firecracker-machine.ts';
import { launchCommand } from './jailer.ts';
import { type MachineLayout, machineLayout, rootDirectory } from './machine-layout.ts';
import { largestFile, makeRoot, removeRoot, sealControl } from './machine-root.ts';
import { bootRequests, checkFirecrackerSpec, loadRequest } from './requests.ts';
import { countSnapshots } from './snapshot-files.ts';
import { featuresOf } from './version.ts';

export interface FirecrackerDriverOptions {
  readonly firecracker: FirecrackerInstallation;
  /** Relative to the cgroup (v2) hierarchy: the parent of the machines' cgroups, which the jailer makes. */
  readonly cgroupParent?: string;
  /**
   * How long Firecracker may take from its start to its first response on its API socket; also
   * the limit of later responses, but at least 30 s.
   */
  readonly startTimeoutMs?: number;
}

const NAME = 'Firecracker';
const CGROUP_ROOT = '/sys/fs/cgroup';

/** Machines in Firecracker, with its jailer where there is one. Needs root, as both of them do. */
export class FirecrackerDriver implements VmmDriver {
  readonly kind = 'firecracker';
  readonly capabilities = { memoryFile: false, kernelFormat: 'elf' } as const;
  readonly #firecracker: FirecrackerInstallation;
  readonly #cgroupParent: string | undefined;
  readonly #startTimeoutMs: number;

  constructor(options: FirecrackerDriverOptions) {
    this.#firecracker = options.firecracker;
    this.#cgroupParent = options.cgroupParent;
    this.#startTimeoutMs = options.startTimeoutMs ?? HUNG_AFTER_MS;
  }

  /** Throws `invalid_request` for an impossible spec, otherwise `vmm_failed` with Firecracker's message. */
  start(spec: MachineSpec): Promise<MicroVm> {
    return this.#launch(spec, undefined);
  }

  /**
   * Throws as {@link start} does. Meanwhile Firecracker may touch guest RAM already: a page
   * server must serve as soon as it is connected.
   */
  restore(spec: MachineSpec, source: RestoreSource): Promise<MicroVm> {
    return this.#launch(spec, source);
  }

  /** Throws `vmm_failed` if the process is alive but cannot be controlled. */
  async adopt(description: MachineDescription): Promise<MicroVm | undefined> {
    const { spec, pid, startTimeTicks } = description;
    const layout = machineLayout(spec.runDirectory);
    const identity = { pid, startTimeTicks };
    const process = VmmProcess.adopt(NAME, identity, layout.output, layout.log);
    if (process === undefined) return undefined;
    await using undo = new AsyncDisposableStack();
    undo.defer(() => process.unwatch());
    try {
      const console = await openConsole(layout, spec, undo);
      const control = await this.#connect(process, layout, undo);
      const machine = this.#machine(description, { layout, process, control, ...console });
      undo.move();
      return machine;
    } catch (error) {
      process.check();
      if (process.status !== undefined) return undefined;
      throw error;
    }
  }

  /** Starts Firecracker with the machine: booted and running, or restored and paused. */
  async #launch(spec: MachineSpec, source: RestoreSource | undefined): Promise<MicroVm> {
    checkMachineSpec(spec);
    checkFirecrackerSpec(spec);
    await using undo = new AsyncDisposableStack();
    const layout = machineLayout(spec.runDirectory);
    undo.defer(() => this.#removeCgroup(spec));
    undo.defer(() => removeRoot(layout));
    await makeConsolePipe(layout.console);
    const console = await openConsole(layout, spec, undo);
    const process = await this.#spawn(spec, layout, source);
    undo.defer(() => process.kill());
    try {
      const control = await this.#connect(process, layout, undo);
      await sealControl(layout);
      await countSnapshots(layout, 0);
      const requests =
        source === undefined
          ? bootRequests(spec)
          : [loadRequest(spec, source.memory, featuresOf(control.version))];
      for (const request of requests) await control.send(request);
      const description: MachineDescription = {
        driver: this.kind,
        vmmVersion: control.version,
        accelerator: 'kvm',
        ...process.identity,
        memoryOrigin: source?.memory.kind ?? 'zeros',
        spec,
      };
      const machine = this.#machine(description, { layout, process, control, ...console });
      undo.move();
      return machine;
    } catch (error) {
      throw await explained(error, process, layout);
    }
  }

  async #spawn(
    spec: MachineSpec,
    layout: MachineLayout,
    source: RestoreSource | undefined,
  ): Promise<VmmProcess> {
    const root = rootDirectory(spec, this.#firecracker);
    const bindings = await makeRoot(spec, layout, root, source);
    const command = launchCommand({
      spec,
      root,
      firecracker: this.#firecracker,
      bindings,
      maxFileBytes: await largestFile(spec),
      cgroupParent: this.#cgroupParent,
    });
    // Ours is closed then, so that the console reaches its end when Firecracker's is closed.
    await using output = await openForFirecracker(layout.console);
    return await VmmProcess.spawn({
      name: NAME,
      ...command,
      workingDirectory: root,
      outputPath: layout.output,
      logPath: layout.log,
      outputFd: output.fd,
    });
  }

  async #connect(
    process: VmmProcess,
    layout: MachineLayout,
    undo: AsyncDisposableStack,
  ): Promise<FirecrackerClient> {
    const control = await FirecrackerClient.connect(layout.control, {
      timeoutMs: this.#startTimeoutMs,
      givenUp: () => exitedWhileStarting(process),
    });
    undo.defer(() => control.close());
    return control;
  }

  #machine(
    description: MachineDescription,
    parts: {
      readonly layout: MachineLayout;
      readonly process: VmmProcess;
      readonly control: FirecrackerClient;
      readonly console: ConsolePipe;
      readonly halted: Promise<void>;
    },
  ): FirecrackerMachine {
    const release = () => this.#removeCgroup(description.spec);
    return new FirecrackerMachine({ description, ...parts, release });
  }

  /** The jailer makes a cgroup for each machine and leaves it. */
  async #removeCgroup(spec: MachineSpec): Promise<void> {
    if (this.#cgroupParent === undefined || this.#firecracker.jailerPath === undefined) return;
    // One that was never made does not exist; one that is in use belongs to another process.
    await rmdir(join(CGROUP_ROOT, this.#cgroupParent, spec.id)).catch(() => undefined);
  }
}

async function openConsole(layout: MachineLayout, spec: MachineSpec, undo: AsyncDisposableStack) {
  const { promise: halted, resolve } = Promise.withResolvers<void>();
  const console = await ConsolePipe.open(layout.console, spec.console, resolve);
  undo.defer(() => console.close());
  return { console, halted };
}

/** Firecracker's own message: from its response if it sent one, else what it, or its jailer, printed last. */
async function explained(
  error: unknown,
  process: VmmProcess,
  layout: MachineLayout,
): Promise<unknown> {
  if (error instanceof TorporError && error.cause instanceof FirecrackerFault) return error;
  return explainStartFailure(error, process, [layout.output, layout.log]);
}
