/**
 * A network slot: a namespace with a tap device for one guest, a veth pair to
 * the host, and the firewall rules for both. The guest's own address is the
 * same in each (`GUEST` in `@torpor/protocol`).
 */
export interface NetworkSlot {
  readonly index: number;
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
  /** Owner of the tap device, where the VMM runs unprivileged. */
  readonly vmmUser?: { readonly uid: number; readonly gid: number };
}

export interface SlotPool {
  /** A slot that is ready for use, from the pool if there is one. Throws `no_hosts_available` when all are taken. */
  acquire(request: SlotRequest): Promise<NetworkSlot>;
  /** Takes the slot down (or cleans and pools it again); idempotent. */
  release(slot: NetworkSlot): Promise<void>;
  /** After a restart: claims a slot that a running sandbox still uses. */
  adopt(owner: string, index: number): Promise<NetworkSlot>;
  /** Stops filling the pool and takes down what is pooled; slots in use stay. */
  close(): Promise<void>;
}
