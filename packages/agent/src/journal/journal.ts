/**
 * The write-ahead journal of host resources: what is made outside the data
 * directory, or must be taken down in an orderly way, is recorded *before* it is
 * made. After a crash, whatever the journal names and no living sandbox owns is
 * taken down.
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
  /** Sandbox id, or `pool` for what waits to be used. */
  readonly owner: string;
  readonly resource: HostResource;
}

export interface ResourceJournal {
  /** Durable when it resolves. Recording the same resource again changes its owner. */
  record(owner: string, resource: HostResource): Promise<void>;
  /** To be called once the resource no longer exists. Unknown resources are ignored. */
  forget(resource: HostResource): Promise<void>;
  entries(): readonly JournalEntry[];
}
