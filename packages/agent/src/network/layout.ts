import { formatIpv4Address, type Ipv4Prefix } from './ipv4.ts';

/** The names by which the resources of one instance are found after a crash. */
export interface InstanceNames {
  /** Of namespaces; the slot's index follows. */
  readonly namespacePrefix: string;
  /** Of the veth interfaces in the host; the slot's index follows. */
  readonly interfacePrefix: string;
  /** The nftables table, family inet, in the host. */
  readonly table: string;
}

/** The names of an instance. Throws RangeError unless the tag is six characters of `[a-z0-9]`. */
export function instanceNames(instance: string): InstanceNames {
  if (!/^[a-z0-9]{6}$/.test(instance)) {
    throw new RangeError(`The instance tag ${JSON.stringify(instance)} is not [a-z0-9]{6}.`);
  }
  return {
    namespacePrefix: `tp-${instance}-`,
    interfacePrefix: `tp${instance}v`,
    table: `torpor_${instance}`,
  };
}

/** The index in a name that consists of the prefix and an index, else undefined. */
export function indexInName(prefix: string, name: string): number | undefined {
  if (!name.startsWith(prefix)) return undefined;
  const digits = name.slice(prefix.length);
  return /^(?:0|[1-9]\d{0,4})$/.test(digits) ? Number(digits) : undefined;
}

/** The tap device that the VMM opens; in each slot's own namespace. */
export const TAP_DEVICE = 'tap0';
/** The end of the veth pair in the slot's namespace. */
export const PEER_INTERFACE = 'eth0';
/**
 * The tap's address, the same in every slot: a restored guest has it in its
 * neighbour table.
 */
export const GATEWAY_MAC_ADDRESS = '02:fc:00:00:00:06';

/** The devices and addresses of one slot; all follow from instance, block and index. */
export interface SlotLayout {
  readonly index: number;
  readonly namespace: string;
  readonly hostInterface: string;
  /** The host's end of the point-to-point link. */
  readonly linkAddress: string;
  readonly linkMacAddress: string;
  /** The slot's end of the link, under which the host reaches the guest. */
  readonly hostAddress: string;
  readonly peerMacAddress: string;
}

/** The layout of slot `index` in the instance's block of addresses: a /31 for each (RFC 3021). */
export function slotLayout(names: InstanceNames, block: Ipv4Prefix, index: number): SlotLayout {
  const base = block.base + 2 * index;
  const macSuffix = [24, 16, 8, 0]
    .map((shift) => ((index >>> shift) & 255).toString(16).padStart(2, '0'))
    .join(':');
  return {
    index,
    namespace: `${names.namespacePrefix}${index}`,
    hostInterface: `${names.interfacePrefix}${index}`,
    linkAddress: formatIpv4Address(base),
    linkMacAddress: `02:fd:${macSuffix}`,
    hostAddress: formatIpv4Address(base + 1),
    peerMacAddress: `02:fe:${macSuffix}`,
  };
}
