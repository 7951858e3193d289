import { copyFile, open, rm } from 'node:fs/promises';
import { tscKhz } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import type {
  Accelerator,
  MachineDescription,
  MachineSpec,
  MemoryOrigin,
  MicroVm,
  RestoreSource,
  VmmDriver,
} from '../driver.ts';
import { HUNG_AFTER_MS } from '../hung-timeout.ts';
import { checkMachineSpec } from '../machine-spec.ts';
import { exitedWhileStarting, explainStartFailure } from '../start-failure.ts';
import { VmmProcess } from '../vmm-process.ts';
import { type MemoryBacking, qemuArguments } from './command-line.ts';
import { ConsoleReader } from './console-reader.ts';
import type { QemuInstallation } from './find-qemu.ts';
import { checkVersion, loadDeviceState } from './migration.ts';
import { QemuMachine, removeRunFiles } from './qemu-machine.ts';
import { QmpClient } from './qmp-client.ts';
import { runFiles, STATE_FD } from './run-files.ts';
import { shimEnvironment } from './uffd-shim.ts';

export interface QemuDriverOptions {
  readonly qemu: QemuInstallation;
  readonly accelerator: Accelerator;
  /** See `ensureUffdShim`; without it no page server can serve a machine's memory. */
  readonly uffdShimPath?: string;
  /**
   * How long QEMU may take from its start to its first response on its control socket; also the
   * limit of later responses, but at least 30 s.
   */
  readonly startTimeoutMs?: number;
}

/** Guest RAM, and the environment variables of QEMU for it. */
interface LaunchMemory {
  readonly origin: MemoryOrigin;
  readonly backing: MemoryBacking;
  readonly environment?: Readonly<Record<string, string>>;
}

/** Machines in QEMU: `microvm` with virtio-mmio, or q35 with virtio-pci on an old QEMU. */
export class QemuDriver implements VmmDriver {
  readonly kind = 'qemu';
  readonly capabilities = { memoryFile: true, kernelFormat: 'any' } as const;
  readonly #qemu: QemuInstallation;
  readonly #accelerator: Accelerator;
  readonly #uffdShimPath: string | undefined;
  readonly #startTimeoutMs: number;

  constructor(options: QemuDriverOptions) {
    this.#qemu = options.qemu;
    this.#accelerator = options.accelerator;
    this.#uffdShimPath = options.uffdShimPath;
    this.#startTimeoutMs = options.startTimeoutMs ?? HUNG_AFTER_MS;
  }

  /** Throws `invalid_request` for an impossible spec, otherwise `vmm_failed` with QEMU's message. */
  async start(spec: MachineSpec): Promise<MicroVm> {
    checkMachineSpec(spec);
    await using undo = new AsyncDisposableStack();
    const memory: LaunchMemory = { origin: 'zeros', backing: await createMemory(spec, undo) };
    const machine = await this.#launch(spec, memory, undefined, undo);
    await machine.resume();
    undo.move();
    return machine;
  }

  /**
   * Throws as {@link start} does, `not_implemented` for a QEMU that is too old, and
   * `host_setup` for memory that a page server serves where the shim is missing.
   */
  async restore(spec: MachineSpec, source: RestoreSource): Promise<MicroVm> {
    checkMachineSpec(spec);
    checkVersion(this.#qemu.version);
    await using undo = new AsyncDisposableStack();
    const memory: LaunchMemory =
      source.memory.kind === 'file'
        ? { origin: 'file', backing: { kind: 'private', path: source.memory.path } }
        : await this.#servedMemory(spec, source.memory.socketPath, undo);
    const machine = await this.#launch(spec, memory, source.statePath, undo);
    undo.move();
    return machine;
  }

  /** Throws `vmm_failed` if the process is alive but cannot be controlled. */
  async adopt(description: MachineDescription): Promise<MicroVm | undefined> {
    const { spec, pid, startTimeTicks } = description;
    const files = runFiles(spec.runDirectory);
    const process = VmmProcess.adopt('QEMU', { pid, startTimeTicks }, files.output);
    if (process === undefined) return undefined;
    await using undo = new AsyncDisposableStack();
    undo.defer(() => process.unwatch());
    try {
      const machine = await this.#attach(description, process, undo);
      undo.move();
      return machine;
    } catch (error) {
      process.check();
      if (process.status !== undefined) return undefined;
      throw error;
    }
  }

  /** Starts QEMU up to the point where its vCPUs could run. */
  async #launch(
    spec: MachineSpec,
    memory: LaunchMemory,
    statePath: string | undefined,
    undo: AsyncDisposableStack,
  ): Promise<QemuMachine> {
    const files = runFiles(spec.runDirectory);
    undo.defer(() => removeRunFiles(spec.runDirectory));
    await prepareState(spec, statePath);
    const process = await VmmProcess.spawn({
      name: 'QEMU',
      program: this.#qemu.path,
      args: qemuArguments({
        spec,
        qemu: this.#qemu,
        accelerator: this.#accelerator,
        memory: memory.backing,
        incoming: statePath !== undefined,
        tscKhz: await tscKhz(),
      }),
      ...(spec.network === undefined ? {} : { namespace: spec.network.namespace }),
      outputPath: files.output,
      inherited: { path: files.state, fd: STATE_FD },
      ...(memory.environment === undefined ? {} : { environment: memory.environment }),
    });
    undo.defer(() => process.kill());
    const description: MachineDescription = {
      driver: this.kind,
      vmmVersion: this.#qemu.version,
      accelerator: this.#accelerator,
      ...process.identity,
      memoryOrigin: memory.origin,
      spec,
    };
    try {
      const machine = await this.#attach(description, process, undo);
      if (statePath !== undefined) await loadDeviceState(machine.control, spec.id);
      return machine;
    } catch (error) {
      throw await explainStartFailure(error, process, [files.output]);
    }
  }

  /**
   * A page server needs RAM that is shared, in a fresh file of the machine's own,
   * and registered with userfaultfd before QEMU touches it.
   */
  async #servedMemory(
    spec: MachineSpec,
    socketPath: string,
    undo: AsyncDisposableStack,
  ): Promise<LaunchMemory> {
    if (this.#uffdShimPath === undefined) {
      throw new TorporError('host_setup', 'QEMU cannot use a page server without uffd-shim.');
    }
    return {
      origin: 'userfaultfd',
      backing: await createMemory(spec, undo),
      environment: shimEnvironment(this.#uffdShimPath, spec.memoryFile, socketPath),
    };
  }

  async #attach(
    description: MachineDescription,
    process: VmmProcess,
    undo: AsyncDisposableStack,
  ): Promise<QemuMachine> {
    const { spec } = description;
    const files = runFiles(spec.runDirectory);
    const control = await QmpClient.connect(files.control, {
      timeoutMs: this.#startTimeoutMs,
      givenUp: () => exitedWhileStarting(process),
    });
    undo.defer(() => control.close());
    const console = await ConsoleReader.open(files.console, spec.console);
    undo.defer(() => console.close());
    return new QemuMachine({ description, process, control, console });
  }
}

/** The guest's RAM: a sparse file of the machine's own. An existing file is not touched. */
async function createMemory(spec: MachineSpec, undo: AsyncDisposableStack): Promise<MemoryBacking> {
  const file = await open(spec.memoryFile, 'wx', 0o600);
  undo.defer(() => rm(spec.memoryFile, { force: true }));
  try {
    await file.truncate(spec.memoryMiB * 1024 * 1024);
  } finally {
    await file.close();
  }
  return { kind: 'shared', path: spec.memoryFile };
}

/** Creates the device-state file for QEMU's user: empty, or with the state to be restored. */
async function prepareState(spec: MachineSpec, statePath: string | undefined): Promise<void> {
  const { state } = runFiles(spec.runDirectory);
  await rm(state, { force: true });
  if (statePath !== undefined) await copyFile(statePath, state);
  const file = await open(state, 'a', 0o600);
  try {
    await file.chmod(0o600);
    if (spec.user !== undefined) await file.chown(spec.user.uid, spec.user.gid);
  } finally {
    await file.close();
  }
}
