import type { ProcessExit } from '@torpor/linux';
import type { PagerStatistics } from './statistics.ts';

/** A request of the control thread to a fault loop. */
export type LoopRequest =
  | {
      readonly kind: 'serve';
      readonly vm: string;
      /** The Unix socket at which the VMM will connect. */
      readonly socketPath: string;
      readonly headerPath: string;
      /** Diff files by build id. */
      readonly diffPaths: Readonly<Record<string, string>>;
      /** Pairs of first block and count, to be installed before the guest faults. */
      readonly workingSet?: Uint32Array;
      /** How long the VMM may take to connect. */
      readonly connectTimeoutMs: number;
    }
  | { readonly kind: 'materialise'; readonly vm: string }
  | { readonly kind: 'describe'; readonly vm: string; readonly requestId: number }
  | { readonly kind: 'stop'; readonly vm: string }
  /** Exit; the loop must serve no VM. */
  | { readonly kind: 'quit' };

/**
 * Why a VM was released. `vmm-exited`: with its exit, where the kernel reports it. `stopped`:
 * the agent requested it. `memory-unmapped`: the VMM's memory no longer exists, as when it has
 * just been killed. `materialised`: all of its RAM is installed.
 */
export type Release =
  | { readonly cause: 'vmm-exited'; readonly exit?: ProcessExit }
  | { readonly cause: 'stopped' | 'memory-unmapped' | 'materialised' };

/** A message of a fault loop to the control thread. */
export type LoopEvent =
  | { readonly kind: 'listening'; readonly vm: string }
  | { readonly kind: 'connected'; readonly vm: string; readonly pid: number }
  | { readonly kind: 'materialised'; readonly vm: string }
  /** The VM was released: nothing is served any more. */
  | { readonly kind: 'released'; readonly vm: string; readonly release: Release }
  /** A page could not be served, or the handshake failed; the VMM was killed. */
  | { readonly kind: 'failed'; readonly vm: string; readonly reason: string }
  | {
      readonly kind: 'described';
      readonly vm: string;
      readonly requestId: number;
      readonly statistics: PagerStatistics;
      readonly workingSet: Uint32Array;
    };
