import { availableParallelism, totalmem } from 'node:os';
import type { OnProgress } from '@torpor/images';
import type { Accelerator } from '@torpor/vmm';
import type { Logger } from 'pino';
import type { SandboxLimits } from './host-context.ts';
import type { SlotPoolOptions } from './network/index.ts';
import type { VmmPrograms, VmmSetting } from './vmm-choice.ts';

/** Where a host keeps what it has, and what runs its sandboxes. */
export interface HostSettings {
  /** Everything of this host: sandboxes, journal, keys. One agent at a time uses it. */
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
  readonly logger: Logger;
  /** What one sandbox may ask for; by default all that the machine has. */
  readonly limits?: Partial<SandboxLimits>;
  readonly network?: Pick<
    SlotPoolOptions,
    'poolSize' | 'maxSlots' | 'addressRange' | 'deniedRanges' | 'uplinkInterface' | 'hostNamespace'
  >;
  /** For the guests' /etc/resolv.conf; they cannot reach resolvers in private networks. */
  readonly nameservers?: readonly string[];
  /** How long a guest may take from its start, booted or restored, to its first response; two minutes if omitted. */
  readonly guestTimeoutMs?: number;
  /** Keep the first boot of each image and shape, and restore later sandboxes from it; true if omitted. */
  readonly keepBoots?: boolean;
  /** What is being made or downloaded, at the first start above all. */
  readonly onProgress?: OnProgress;
  /** Called after a Terminate call has destroyed all sandboxes and returned. */
  readonly onTerminate?: () => void;
}

export const DEFAULT_NAMESERVERS: readonly string[] = ['1.1.1.1', '8.8.8.8'];
/** Under emulation on a loaded machine a boot takes tens of seconds. A slower one needs the setting. */
export const DEFAULT_GUEST_TIMEOUT_MS = 120_000;

/** Enough for one step of a start on most hosts, however soon a guest is given up. */
const LEAST_STEP_TIMEOUT_MS = 60_000;

/**
 * How long each other step of a machine's start may take (the responses of the VMM, its page server,
 * the guest's identity): as long as a guest, since a host that needs this long for that is
 * slow in all of it.
 */
export function stepTimeoutMs(guestTimeoutMs: number): number {
  return Math.max(LEAST_STEP_TIMEOUT_MS, guestTimeoutMs);
}

const MAX_DISK_MIB = 1024 * 1024;

/** A sandbox may have the whole machine but no more: vCPUs beyond it only take turns, memory beyond it is not there. */
export function hostLimits(configured: Partial<SandboxLimits> = {}): SandboxLimits {
  const memoryMiB = Math.floor(totalmem() / (1024 * 1024));
  return {
    maxVcpus: Math.min(configured.maxVcpus ?? Number.POSITIVE_INFINITY, availableParallelism()),
    maxMemoryMiB: Math.min(configured.maxMemoryMiB ?? Number.POSITIVE_INFINITY, memoryMiB),
    maxDiskMiB: configured.maxDiskMiB ?? MAX_DISK_MIB,
  };
}
