/**
 * The write-ahead journal of host resources: every resource outside the data directory, or that
 * needs an orderly release, is recorded *before* it is created. After a crash, resources in the
 * journal that no running sandbox owns are released.
 */

export type HostResource =
  | { readonly kind: 'network-slot'; readonly index: number }
  | {
      readonly kind: 'process';
      readonly pid: number;
      readonly startTimeTicks: string;
    }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'directory'; readonly path: string };

export interface JournalEntry {
  /** Sandbox id, or `pool` for a pooled slot. */
  readonly owner: string;
  readonly resource: HostResource;
}

export interface ResourceJournal {
  /** Durable when it resolves. Recording the same resource again changes its owner. */
  record(owner: string, resource: HostResource): Promise<void>;
  /** Called once the resource no longer exists. Unknown resources are ignored. */
  forget(resource: HostResource): Promise<void>;
  entries(): readonly JournalEntry[];
}
