/**
 * The one interface of the VMM drivers. A driver starts a detached VMM process
 * that outlives the host agent; {@link VmmDriver.adopt} takes such a process
 * over again. Nothing here knows of sandboxes, builds or networks beyond the
 * names of a namespace and a tap device.
 */

export interface DriveSpec {
  /** Unique in the machine; see `GUEST_DRIVES` in `@torpor/protocol`. */
  readonly id: string;
  /** A raw image on the host. */
  readonly path: string;
  readonly readOnly: boolean;
}

export interface NetworkSpec {
  /** Name of the network namespace (`ip netns`) in which the VMM runs. */
  readonly namespace: string;
  /** Tap device inside that namespace, made beforehand. */
  readonly tapDevice: string;
  readonly macAddress: string;
}

export interface MachineSpec {
  /** Names the machine in messages; `[a-z0-9-]{1,64}`. */
  readonly id: string;
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /** Kernel command line without what the driver itself adds (console, reboot and panic behaviour). */
  readonly kernelArguments: readonly string[];
  /** In the order in which the guest sees them: /dev/vda, /dev/vdb, … */
  readonly drives: readonly DriveSpec[];
  /** Absent: the machine has no network device, and the VMM runs in the caller's namespace. */
  readonly network?: NetworkSpec;
  /** A private directory of this machine, made by the caller: sockets, pid file, stderr. Its path is at most 80 bytes long. */
  readonly runDirectory: string;
  /**
   * Guest RAM: a file on tmpfs that the driver creates, in a directory that exists.
   * Not made by a driver whose machines have {@link MicroVm.snapshot}.
   */
  readonly memoryFile: string;
  /** Bounded log of the serial console. */
  readonly console: { readonly path: string; readonly maxBytes: number };
  /** Unprivileged ids under which the VMM runs; absent means the caller's own. */
  readonly user?: { readonly uid: number; readonly gid: number };
}

/** What a restore needs beyond the machine's own spec. */
export interface RestoreSource {
  /** State of the devices and vCPUs, as {@link MicroVm.saveState} or {@link MicroVm.snapshot} wrote it. */
  readonly statePath: string;
  readonly memory: /**
   * Guest RAM, mapped privately: must not change while the VM lives, and must be
   * readable by the VMM's user, wherever it lies.
   */
    | { readonly kind: 'file'; readonly path: string }
    /**
     * Unix socket of a page server that serves this machine alone, and at once: RAM is
     * touched before the restore resolves. It is given to the VMM's user.
     */
    | { readonly kind: 'userfaultfd'; readonly socketPath: string };
}

/** All that is needed to find a VMM again; plain JSON. */
export interface MachineDescription {
  readonly driver: VmmKind;
  readonly vmmVersion: string;
  readonly accelerator: Accelerator;
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: tells a recycled pid from the process that was started. */
  readonly startTimeTicks: string;
  readonly spec: MachineSpec;
}

export type VmmKind = 'qemu' | 'firecracker';
export type Accelerator = 'kvm' | 'tcg';

export interface ExitReport {
  /** One sentence: why the VMM ended, as well as it is known. */
  readonly reason: string;
  readonly exitCode?: number;
  readonly signal?: string;
  /** The last lines that the guest printed. */
  readonly consoleTail: readonly string[];
}

/**
 * What of a paused machine's RAM a snapshot takes. `full`: all of it. `diff`: what was
 * written since snapshot number `since` of this machine, or, for 0, since it was started
 * (then the rest is zeros) or restored (then the rest is what it was restored from).
 */
export type SnapshotRequest = {
  /** Where the state of devices and vCPUs goes; does not exist yet. */
  readonly statePath: string;
  /**
   * Where the RAM goes; does not exist yet. The file is as large as the RAM. In that of
   * a diff, data is what was written, even if it is zeros, and a hole is what was not.
   */
  readonly memoryPath: string;
} & ({ readonly kind: 'full' } | { readonly kind: 'diff'; readonly since: number });

export interface SnapshotResult {
  /** 1 for the first attempt to take a snapshot of this machine, 2 for the next, … */
  readonly number: number;
}

/** A running VMM with its machine. */
export interface MicroVm {
  readonly description: MachineDescription;
  /** Resolves when the VMM process has ended, for whatever reason, within 2 s of its end. Never rejects. */
  readonly exited: Promise<ExitReport>;
  /** Stops the vCPUs. Idempotent. */
  pause(): Promise<void>;
  /** Lets the vCPUs run. Idempotent. */
  resume(): Promise<void>;
  /**
   * Writes the state of devices and vCPUs (not RAM) to `path`. The machine must be paused and stays so.
   * Throws `not_implemented` where there is {@link snapshot} instead.
   */
  saveState(path: string): Promise<void>;
  /**
   * Writes state and RAM. Absent where RAM is a file already, `spec.memoryFile`. The machine
   * must be paused and stays so. Takes as long as the disk does. Throws `invalid_state` for a
   * machine that runs, and for a diff whose base is not the last attempt: that one may have
   * been lost, also by a crash of its caller, and with it what only the next diff would lack.
   * The remedy is a full snapshot. On failure nothing is left at either path.
   */
  snapshot?(request: SnapshotRequest): Promise<SnapshotResult>;
  /** Asks the guest to power down, then ends the VMM; after `graceMs` by force. */
  stop(graceMs: number): Promise<void>;
  /** Ends the VMM at once. Resolves when the process is gone. */
  kill(): Promise<void>;
  /** The last bytes of the console log. */
  readConsole(maxBytes: number): Promise<Buffer>;
  /** Lets go of the VMM without ending it: sockets are closed, timers end. */
  detach(): Promise<void>;
}

export interface VmmDriver {
  readonly kind: VmmKind;
  /** Boots a machine; resolves when its vCPUs run. On failure nothing is left of it. */
  start(spec: MachineSpec): Promise<MicroVm>;
  /** Restores a machine from a saved state; its vCPUs are paused. On failure nothing is left of it. */
  restore(spec: MachineSpec, source: RestoreSource): Promise<MicroVm>;
  /** Takes over a VMM that an earlier process started, or undefined if it has ended. */
  adopt(description: MachineDescription): Promise<MicroVm | undefined>;
}
