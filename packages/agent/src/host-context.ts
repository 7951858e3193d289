import type { BuildStore } from '@torpor/builds';
import type { GuestArtifacts } from '@torpor/images';
import type { VmDescription } from '@torpor/pager';
import type { Tracer } from '@torpor/protocol';
import type { VmmDriver, VmmPlatform } from '@torpor/vmm';
import type { Logger } from 'pino';
import type { DataLayout } from './data-dir/layout.ts';
import type { GuestSecrets } from './guest/access-token.ts';
import type { ResourceJournal } from './journal/journal.ts';
import type { NetworkSlot, SlotPool } from './network/slot.ts';

export interface BaseImage {
  readonly name: string;
  /** A read-only ext4 image; never changed while a sandbox uses it. */
  readonly path: string;
  /** The user that commands run as unless the sandbox has another. */
  readonly defaultUser?: string;
}

/** An image of this host, for display. */
export interface ImageSummary {
  readonly name: string;
  readonly sizeBytes: number;
  /** Unix milliseconds. */
  readonly createdAt: number;
}

/** Where root file systems come from. */
export interface BaseImages {
  /** Throws `not_found`. */
  resolve(name: string): Promise<BaseImage>;
  list(): Promise<readonly ImageSummary[]>;
}

/** The limits of a single sandbox. */
export interface SandboxLimits {
  readonly maxVcpus: number;
  readonly maxMemoryMiB: number;
  readonly maxDiskMiB: number;
}

/** Milliseconds of a monotonic clock; its zero is arbitrary. */
export type MonotonicClock = () => number;

export interface PageServiceRequest {
  /** The VM's id at the pager; never reused. */
  readonly vm: string;
  readonly socketPath: string;
  readonly headerPath: string;
  readonly diffPaths: Readonly<Record<string, string>>;
  readonly workingSet?: readonly number[];
  /** How long the VMM may take to connect. */
  readonly connectTimeoutMs: number;
}

/**
 * Serves the page faults of restored machines. A VM whose pages can no longer be served hangs,
 * so its owner is notified at once.
 */
export interface PageService {
  /**
   * Serves a VM; resolves when its VMM may connect. `onFailure` is called at most once, if its
   * pages can no longer be served. Throws `vmm_failed` with the pager's message.
   */
  serve(request: PageServiceRequest, onFailure: (reason: string) => void): Promise<void>;
  /**
   * Adopts a VM that an earlier agent had served. Throws `vmm_failed` if the pager no
   * longer serves it: then its guest hangs, and must be killed.
   */
  adopt(vm: string, onFailure: (reason: string) => void): Promise<void>;
  /** The pager's statistics for a VM; undefined if there are none. */
  describe(vm: string): Promise<VmDescription | undefined>;
  /** The VM has exited, or is about to. Idempotent. */
  release(vm: string): Promise<void>;
}

/** This host, as the operations on its sandboxes see it. */
export interface HostContext {
  readonly layout: DataLayout;
  readonly journal: ResourceJournal;
  readonly slots: Pick<
    SlotPool,
    'acquire' | 'release' | 'adopt' | 'destroySlot' | 'resetConnections'
  >;
  readonly driver: VmmDriver;
  /** The platform of {@link driver}: saved states can be loaded on this one only. */
  readonly vmm: VmmPlatform;
  readonly images: BaseImages;
  readonly artifacts: Pick<
    GuestArtifacts,
    'kernel' | 'initramfsPath' | 'agentDrivePath' | 'envdVersion'
  >;
  readonly builds: BuildStore;
  readonly pages: PageService;
  /** Whether the first boot of an image in a given shape is kept, and later ones restored from it. */
  readonly keepBoots: boolean;
  readonly kernelArguments: readonly string[];
  /** Creates the empty disk of a new sandbox. */
  readonly createUpperDisk: (path: string, sizeMiB: number) => Promise<void>;
  readonly secrets: GuestSecrets;
  readonly limits: SandboxLimits;
  /** For the guests' /etc/resolv.conf. */
  readonly nameservers: readonly string[];
  readonly logger: Logger;
  readonly tracer: Tracer;
  readonly now: MonotonicClock;
  /** How long a guest may take from its start, booted or restored, to its first response. */
  readonly guestTimeoutMs: number;
  /** How long each other step of a machine's start may take. */
  readonly stepTimeoutMs: number;
  /** How many machines boot or are restored at a time; the others wait, so that none is too slow. */
  readonly concurrentBoots: number;
  readonly agentVersion: string;
  /** The endpoint of envd of the guest in this slot. */
  readonly guestUrl: (slot: NetworkSlot) => string;
}
