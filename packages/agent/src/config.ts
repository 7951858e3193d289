import { availableParallelism, totalmem } from 'node:os';
import type { OnProgress } from '@torpor/images';
import type { Tracer } from '@torpor/protocol';
import type { Accelerator } from '@torpor/vmm';
import type { Logger } from 'pino';
import type { SandboxLimits } from './host-context.ts';
import type { SlotPoolOptions } from './network/index.ts';
import type { VmmPrograms, VmmSetting } from './vmm-choice.ts';

/** Where a host keeps what it has, and what runs its sandboxes. */
export interface HostSettings {
  /** The data directory: sandboxes, journal, keys. Used by one agent at a time. */
  readonly dataDir: string;
  /** Kernels and images, which several data directories may share. */
  readonly cacheDir: string;
  /** `auto` if omitted: see `chooseVmm`. */
  readonly vmm?: VmmSetting | undefined;
  /** Where the VMMs are, if not on the `PATH`. */
  readonly programs?: VmmPrograms | undefined;
  /** If omitted, found by a probe boot, once. */
  readonly forcedAccelerator?: Accelerator | undefined;
}

export interface HostAgentConfig extends HostSettings {
  /** The daemon for guests, which is packed into the agent drive: a module that exports `runDaemon(args)`. */
  readonly envdEntry: string;
  readonly logger: Logger;
  /** Traces are only passed on if omitted. */
  readonly tracer?: Tracer | undefined;
  /** The limits of one sandbox; by default the resources of the machine. */
  readonly limits?: Partial<SandboxLimits>;
  readonly network?: Pick<
    SlotPoolOptions,
    'poolSize' | 'maxSlots' | 'addressRange' | 'deniedRanges' | 'uplinkInterface' | 'hostNamespace'
  >;
  /** For the guests' /etc/resolv.conf; they cannot reach resolvers in private networks. */
  readonly nameservers?: readonly string[];
  /** How long a guest may take from its start, booted or restored, to its first response. */
  readonly guestTimeoutMs: number;
  /** Keep the first boot of each image and shape, and restore later sandboxes from it; true if omitted. */
  readonly keepBoots?: boolean;
  /** Reports what is being built or downloaded, mainly at the first start. */
  readonly onProgress?: OnProgress;
  /** Called after a Terminate call has destroyed all sandboxes and returned. */
  readonly onTerminate?: () => void;
}

export const DEFAULT_NAMESERVERS: readonly string[] = ['1.1.1.1', '8.8.8.8'];

/** Enough for one step of a start on most hosts, even if the guest's time limit is shorter. */
const LEAST_STEP_TIMEOUT_MS = 60_000;

/**
 * The time limit of each other step of a machine's start (the responses of the VMM and its page
 * server, the guest's identity): that of the guest, since a host where a guest needs longer is
 * slow in every step.
 */
export function stepTimeoutMs(guestTimeoutMs: number): number {
  return Math.max(LEAST_STEP_TIMEOUT_MS, guestTimeoutMs);
}

const MAX_DISK_MIB = 1024 * 1024;

/**
 * A sandbox may have the whole machine but no more: further vCPUs would only share its
 * processors, and further memory does not exist.
 */
export function hostLimits(configured: Partial<SandboxLimits> = {}): SandboxLimits {
  const memoryMiB = Math.floor(totalmem() / (1024 * 1024));
  return {
    maxVcpus: Math.min(configured.maxVcpus ?? Number.POSITIVE_INFINITY, availableParallelism()),
    maxMemoryMiB: Math.min(configured.maxMemoryMiB ?? Number.POSITIVE_INFINITY, memoryMiB),
    maxDiskMiB: configured.maxDiskMiB ?? MAX_DISK_MIB,
  };
}
