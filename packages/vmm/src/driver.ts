import type { DirtyBase } from './dirty-base.ts';

/**
 * The one interface of the VMM drivers. A driver starts a detached VMM process that outlives
 * the host agent; {@link VmmDriver.adopt} connects to such a process again. Nothing here
 * depends on sandboxes, networks or builds, beyond their names.
 */

export interface DriveSpec {
  /** Unique in the machine; see `GUEST_DRIVES` in `@torpor/protocol`. */
  readonly id: string;
  /** A raw disk file on the host. */
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
  /** The machine's name in messages; `[a-z0-9-]{1,64}`. */
  readonly id: string;
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /** Kernel command line without what the driver itself adds (console, reboot and panic behaviour). */
  readonly kernelArguments: readonly string[];
  /** In the order in which the guest sees them: /dev/vda, /dev/vdb, … */
  readonly drives: readonly DriveSpec[];
  /** If omitted, the machine has no network device, and the VMM runs in the caller's namespace. */
  readonly network?: NetworkSpec;
  /** A private directory of this machine, made by the caller: sockets, pid file, stderr. Its path is at most 80 bytes long. */
  readonly runDirectory: string;
  /**
   * Guest RAM: a file on tmpfs that a driver with {@link VmmCapabilities.memoryFile}
   * creates, in a directory that exists.
   */
  readonly memoryFile: string;
  /** Bounded log of the serial console. */
  readonly console: { readonly path: string; readonly maxBytes: number };
  /** Unprivileged ids under which the VMM runs; if omitted, the caller's own. */
  readonly user?: { readonly uid: number; readonly gid: number };
}

/** What a restore needs beyond the machine's own spec. */
export interface RestoreSource {
  /** State of the devices and vCPUs, as {@link MicroVm.capture} wrote it. */
  readonly statePath: string;
  readonly memory: /**
   * Guest RAM, mapped privately: must not change while the VM lives, and must be readable by
   * the VMM's user, in any directory.
   */
    | { readonly kind: 'file'; readonly path: string }
    /**
     * Unix socket of a page server that serves this machine alone, from the start: RAM is
     * touched before the restore resolves. Its owner becomes the VMM's user.
     */
    | { readonly kind: 'userfaultfd'; readonly socketPath: string };
}

/** All that is needed to find a VMM again; plain JSON. */
export interface MachineDescription {
  readonly driver: VmmKind;
  readonly vmmVersion: string;
  readonly accelerator: Accelerator;
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: distinguishes a recycled pid from the process that was started. */
  readonly startTimeTicks: string;
  readonly memoryOrigin: MemoryOrigin;
  readonly spec: MachineSpec;
}

/** The initial content of a machine's RAM: zeros (it was booted), a file, or what a page server serves. */
export type MemoryOrigin = 'zeros' | RestoreSource['memory']['kind'];

export type VmmKind = 'qemu' | 'firecracker';
export type Accelerator = 'kvm' | 'tcg';

export interface ExitReport {
  /** One sentence: why the VMM exited, as far as it is known. */
  readonly reason: string;
  readonly exitCode?: number;
  readonly signal?: string;
  /** The last lines that the guest printed. */
  readonly consoleTail: readonly string[];
}

/** Where a capture goes; neither file exists yet. */
export interface CaptureTarget {
  /** The state of devices and vCPUs. */
  readonly statePath: string;
  /** The RAM, if the VMM has to write it. */
  readonly memoryPath: string;
}

/** The RAM of a machine at the moment when its state was saved. */
export interface Capture {
  /**
   * A file as large as the RAM: the target's `memoryPath`, or the machine's own memory file,
   * which is valid until the machine runs again.
   */
  readonly memoryPath: string;
  /** What a hole of that file means: blocks of zeros, or blocks as in the base's build. */
  readonly holes: 'zero' | 'unchanged';
  /** Makes this capture the base of a later one: see `dirty-base.ts`. */
  readonly number: number;
  /** Why all RAM was written, where a diff would have been enough. */
  readonly fullBecause?: string;
}

/** A running VMM with its machine. */
export interface MicroVm {
  readonly description: MachineDescription;
  /** Resolves when the VMM process has exited, for any reason, within 2 s of its exit. Never rejects. */
  readonly exited: Promise<ExitReport>;
  /** Stops the vCPUs. Idempotent. */
  pause(): Promise<void>;
  /** Lets the vCPUs run. Idempotent. */
  resume(): Promise<void>;
  /**
   * Saves the state of a paused machine, and makes its RAM readable: what changed since `base`
   * if that is known, else all of it. The machine stays paused. Takes as long as the disk does.
   * Throws `invalid_state` for a machine that runs or whose RAM cannot be saved. On failure
   * nothing is left at the target.
   */
  capture(base: DirtyBase, target: CaptureTarget): Promise<Capture>;
  /** Asks the guest to power down, then waits for the VMM to exit; kills it after `graceMs`. */
  stop(graceMs: number): Promise<void>;
  /** Kills the VMM. Resolves when the process has exited. */
  kill(): Promise<void>;
  /** The last bytes of the console log. */
  readConsole(maxBytes: number): Promise<Buffer>;
  /** Disconnects from the VMM, which keeps running: closes sockets, stops timers. */
  detach(): Promise<void>;
}

/** The differences between the drivers that callers need to know. */
export interface VmmCapabilities {
  /** Guest RAM is a file on tmpfs, `MachineSpec.memoryFile`; else it is the VMM's own memory. */
  readonly memoryFile: boolean;
  /** Which kernels it boots: uncompressed ELF files (`vmlinux`) only, or `bzImage` too. */
  readonly kernelFormat: 'elf' | 'any';
}

export interface VmmDriver {
  readonly kind: VmmKind;
  readonly capabilities: VmmCapabilities;
  /** Boots a machine; resolves when its vCPUs run. On failure nothing is left of it. */
  start(spec: MachineSpec): Promise<MicroVm>;
  /** Restores a machine from a saved state; its vCPUs are paused. On failure nothing is left of it. */
  restore(spec: MachineSpec, source: RestoreSource): Promise<MicroVm>;
  /** Connects to a VMM that an earlier process started; undefined if it has exited. */
  adopt(description: MachineDescription): Promise<MicroVm | undefined>;
}
