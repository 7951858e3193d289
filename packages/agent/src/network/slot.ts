/**
 * A network slot: a namespace with a tap device for one guest, a veth pair to
 * the host, and the firewall rules for both. The guest's own address is the
 * same in each (`GUEST` in `@torpor/protocol`).
 */
export interface NetworkSlot {
  readonly index: number;
  /** Unique for each lease: an outdated slot object releases nothing. */
  readonly lease: string;
  /** Name of the network namespace. */
  readonly namespace: string;
  /** Tap device inside it. */
  readonly tapDevice: string;
  /** The address under which the host, and only the host, reaches the guest. */
  readonly hostAddress: string;
}

export interface SlotRequest {
  /** Sandbox id: owner of the slot in the journal. */
  readonly owner: string;
  readonly allowInternet: boolean;
  /** Index of the slot that the owner had before: with it, it has the same address. Taken if it is free. */
  readonly preferredIndex?: number | undefined;
  /** Owner of the tap device, where the VMM runs unprivileged. */
  readonly vmmUser?: { readonly uid: number; readonly gid: number };
}

/** The number of slots by state. */
export interface SlotPoolStats {
  /** Ready, in the pool. */
  readonly ready: number;
  /** Handed out, or kept for a sandbox of an earlier run that has not been adopted yet. */
  readonly inUse: number;
  /** Being created, repaired or removed. */
  readonly changing: number;
  /** Not created: the remaining capacity. */
  readonly free: number;
}

export interface SlotPool {
  /** A slot that is ready for use, from the pool if there is one. Throws `no_hosts_available` when all are taken. */
  acquire(request: SlotRequest): Promise<NetworkSlot>;
  /**
   * Removes the slot, after which its index may be reused. Idempotent: a slot of an earlier
   * lease is ignored. The VMM should have exited by then; otherwise it loses its network at
   * once.
   */
  release(slot: NetworkSlot): Promise<void>;
  /**
   * After a restart: claims a slot that a running sandbox still uses, and repairs its rules.
   * Throws `conflict` if it belongs to another, `guest_unreachable` if the namespace or the tap
   * device no longer exists.
   */
  adopt(owner: string, index: number): Promise<NetworkSlot>;
  /**
   * After a restart: removes a slot that is in the journal and that no running sandbox owns;
   * or, at any time, a slot that could not be released, by its owner. Idempotent. Throws
   * `conflict` if the slot is handed out to another.
   */
  destroySlot(index: number, owner?: string): Promise<void>;
  /**
   * Resets the host's TCP connections to a guest that no longer exists: a client that only
   * receives would never notice. Does nothing while the slot is in use.
   */
  resetConnections(index: number): Promise<void>;
  /** Restores the host's firewall rules if they were removed or changed. */
  checkFirewall(): Promise<'intact' | 'repaired'>;
  stats(): SlotPoolStats;
  /** Stops filling the pool and removes pooled slots; slots in use are kept. */
  close(): Promise<void>;
}
