import type { BuildStore } from '@torpor/builds';
import type { GuestArtifacts } from '@torpor/images';
import type { VmmDriver, VmmPlatform } from '@torpor/vmm';
import type { Logger } from 'pino';
import type { WorkingSets } from './builds/working-sets.ts';
import type { DataLayout } from './data-dir/layout.ts';
import type { GuestSecrets } from './guest/access-token.ts';
import type { ResourceJournal } from './journal/journal.ts';
import type { SandboxLimits } from './lifecycle/create-request.ts';
import type { PageServer } from './machine/page-server.ts';
import type { NetworkSlot, SlotPool } from './network/slot.ts';
import type { MonotonicClock } from './registry/activity.ts';

export interface BaseImage {
  readonly name: string;
  /** A read-only ext4 image; never changed while a sandbox uses it. */
  readonly path: string;
  /** Whose commands run unless the sandbox says otherwise. */
  readonly defaultUser?: string;
}

/** An image that this host has, for a person. */
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

/** What pausing and restoring work with. */
export interface SnapshotContext {
  readonly builds: BuildStore;
  readonly pages: Pick<PageServer, 'serve' | 'adopt' | 'describe' | 'release'>;
  readonly workingSets: WorkingSets;
  /** Whether the first boot of an image in a given shape is kept, and later ones restored from it. */
  readonly keepBoots: boolean;
}

/** What the steps of a sandbox's life work with. */
export interface HostContext {
  readonly layout: DataLayout;
  readonly journal: ResourceJournal;
  readonly slots: Pick<
    SlotPool,
    'acquire' | 'release' | 'adopt' | 'destroySlot' | 'resetConnections'
  >;
  readonly driver: VmmDriver;
  /** What {@link driver} runs machines on: states are good for no other. */
  readonly vmm: VmmPlatform;
  readonly images: BaseImages;
  readonly artifacts: Pick<
    GuestArtifacts,
    'kernel' | 'initramfsPath' | 'agentDrivePath' | 'envdVersion'
  >;
  readonly snapshots: SnapshotContext;
  readonly kernelArguments: readonly string[];
  /** Makes the empty disk of a new sandbox. */
  readonly createUpperDisk: (path: string, sizeMiB: number) => Promise<void>;
  readonly secrets: GuestSecrets;
  readonly limits: SandboxLimits;
  /** For the guests' /etc/resolv.conf. */
  readonly nameservers: readonly string[];
  readonly logger: Logger;
  readonly now: MonotonicClock;
  /** How long a guest may take from its start, booted or restored, to answering. */
  readonly guestTimeoutMs: number;
  /** How long each other step of a machine's start may take. */
  readonly stepTimeoutMs: number;
  /** Guests that boot at a time; the others wait for their turn, so that none boots too slowly. */
  readonly concurrentBoots: number;
  readonly agentVersion: string;
  /** Where the host agent reaches envd of the guest in this slot. */
  readonly guestUrl: (slot: NetworkSlot) => string;
}
