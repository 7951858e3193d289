import { existsSync } from 'node:fs';
import {
  CommandError,
  ipBatch,
  ipJson,
  listNamespaces,
  NETNS_DIRECTORY,
  nftApply,
  writeNetSysctls,
} from '@torpor/linux';
import { GUEST } from '@torpor/protocol';
import { z } from 'zod';
import { entriesOf } from './entries.ts';
import { DENIED_RANGES, INTERNET_GROUP, NO_INTERNET_GROUP } from './host-firewall.ts';
import {
  GATEWAY_MAC_ADDRESS,
  type InstanceNames,
  indexInName,
  PEER_INTERFACE,
  type SlotLayout,
  TAP_DEVICE,
} from './layout.ts';

/**
 * One slot: the namespace and what is in it.
 *
 *     guest 169.254.0.21 ── tap0 169.254.0.22 │ namespace │ eth0 (hostAddress) ══ veth ══ host
 *
 * The namespace translates both ways. The host opens connections to `hostAddress`;
 * the guest sees them come from its gateway. The guest's own connections leave
 * with `hostAddress` as their source, and the host masquerades them.
 *
 * A resumed guest has connections of the host that this new namespace has not seen. If the host
 * sends first they are translated like new ones; if the guest does, its segments go to the
 * host's end of the link, which has the connection. A segment with SYN never goes there, so the
 * guest cannot open a connection to it.
 *
 * The rules in here do not trust the host's: they deny private ranges, and the host's end of
 * the link too, even while the host's ruleset is flushed. Only the host's rules decide whether
 * the guest may reach the internet.
 */

export interface TapOwner {
  readonly uid: number;
  readonly gid: number;
}

const TABLE = 'torpor';

/** The script that replaces the table of a slot in one transaction. */
export function slotRules(layout: SlotLayout): string {
  const { address: guest, gateway } = GUEST;
  return `
table inet ${TABLE} {}
delete table inet ${TABLE}
table inet ${TABLE} {
  set denied {
    type ipv4_addr
    flags interval
    auto-merge
    elements = { ${[...DENIED_RANGES, layout.linkAddress].join(', ')} }
  }
  chain raw {
    type filter hook prerouting priority raw; policy drop;
    meta nfproto ipv6 drop
    iifname "${TAP_DEVICE}" ip saddr ${guest} accept
    iifname "${PEER_INTERFACE}" accept
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "${PEER_INTERFACE}" ip saddr ${layout.linkAddress} ip daddr ${layout.hostAddress} dnat ip to ${guest}
    iifname "${TAP_DEVICE}" ip daddr ${gateway} tcp flags & syn == 0 dnat ip to ${layout.linkAddress}
  }
  chain input {
    type filter hook input priority filter; policy drop;
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related ct direction reply accept
    iifname "${PEER_INTERFACE}" oifname "${TAP_DEVICE}" ip saddr ${layout.linkAddress} ct status dnat accept
    iifname "${TAP_DEVICE}" oifname "${PEER_INTERFACE}" ip daddr ${layout.linkAddress} tcp flags & syn == 0 ct status dnat accept
    iifname "${TAP_DEVICE}" oifname "${PEER_INTERFACE}" ip daddr != @denied accept
    iifname "${TAP_DEVICE}" limit rate 100/second burst 100 packets reject with icmp admin-prohibited
  }
  chain output {
    type filter hook output priority filter; policy drop;
    icmp type { destination-unreachable, time-exceeded } accept
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "${TAP_DEVICE}" snat ip to ${gateway}
    oifname "${PEER_INTERFACE}" snat ip to ${layout.hostAddress}
  }
}
`;
}

/** Whether the kernel has IPv6 at all: with `ipv6.disable=1` it has none of its settings. */
const HAS_IPV6 = existsSync('/proc/sys/net/ipv6');

function withoutIpv6Address(device: string): string[] {
  return HAS_IPV6 ? [`link set ${device} addrgenmode none`] : [];
}

function linkLines(layout: SlotLayout): string[] {
  const { hostInterface: host, namespace } = layout;
  return [
    `link add name ${host} address ${layout.linkMacAddress} type veth peer name ${PEER_INTERFACE} address ${layout.peerMacAddress} netns ${namespace}`,
    ...withoutIpv6Address(host),
    `addr add ${layout.linkAddress}/31 dev ${host}`,
    `link set ${host} up`,
    `neigh replace ${layout.hostAddress} lladdr ${layout.peerMacAddress} dev ${host} nud permanent`,
  ];
}

function peerLines(layout: SlotLayout): string[] {
  return [
    ...withoutIpv6Address(PEER_INTERFACE),
    `addr add ${layout.hostAddress}/31 dev ${PEER_INTERFACE}`,
    `link set ${PEER_INTERFACE} up`,
    `neigh replace ${layout.linkAddress} lladdr ${layout.linkMacAddress} dev ${PEER_INTERFACE} nud permanent`,
    `route replace default via ${layout.linkAddress} dev ${PEER_INTERFACE}`,
  ];
}

function tapLines(owner: TapOwner | undefined): string[] {
  const permissions = owner === undefined ? '' : ` user ${owner.uid} group ${owner.gid}`;
  return [
    `tuntap add dev ${TAP_DEVICE} mode tap${permissions}`,
    `link set ${TAP_DEVICE} address ${GATEWAY_MAC_ADDRESS}`,
    ...withoutIpv6Address(TAP_DEVICE),
    `addr add ${GUEST.gateway}/${GUEST.prefixLength} dev ${TAP_DEVICE}`,
    `link set ${TAP_DEVICE} up`,
    `neigh replace ${GUEST.address} lladdr ${GUEST.macAddress} dev ${TAP_DEVICE} nud permanent`,
  ];
}

/** IPv6 off and routing on. */
const SYSCTLS = {
  ...(HAS_IPV6 ? { 'ipv6/conf/all/disable_ipv6': 1, 'ipv6/conf/default/disable_ipv6': 1 } : {}),
  'ipv4/ip_forward': 1,
};

/**
 * Creates a slot. Existing resources with its names are removed first: tools that a killed
 * agent had started may finish after it. Throws CommandError and leaves what was created until
 * then.
 */
export async function makeSlot(
  names: InstanceNames,
  layout: SlotLayout,
  hostNamespace: string | undefined,
): Promise<void> {
  const { namespace } = layout;
  const link = () =>
    ipBatch([`netns add ${namespace}`, ...linkLines(layout)], { namespace: hostNamespace });
  await link().catch(async (error: unknown) => {
    if (!(error instanceof CommandError && error.stderr.includes('File exists'))) throw error;
    await removeSlot(names, layout.index, hostNamespace);
    await link();
  });
  await secureSlot(layout);
  await ipBatch([...tapLines(undefined), ...peerLines(layout)], { namespace });
}

async function secureSlot(layout: SlotLayout): Promise<void> {
  await nftApply(slotRules(layout), { namespace: layout.namespace });
  await writeNetSysctls(SYSCTLS, { namespace: layout.namespace });
}

/** Configures a ready slot for a sandbox: its internet access, and the tap's owner, its VMM's user. */
export async function configureSlot(
  layout: SlotLayout,
  hostNamespace: string | undefined,
  allowInternet: boolean,
  tapOwner: TapOwner | undefined,
): Promise<void> {
  const group = allowInternet ? INTERNET_GROUP : NO_INTERNET_GROUP;
  await ipBatch([`link set ${layout.hostInterface} group ${group}`], { namespace: hostNamespace });
  if (tapOwner === undefined) return;
  await ipBatch([`tuntap del dev ${TAP_DEVICE} mode tap`, ...tapLines(tapOwner)], {
    namespace: layout.namespace,
  });
}

const linkSchema = z.looseObject({
  ifname: z.string(),
  addr_info: z.array(z.looseObject({ local: z.string().optional() })).optional(),
});
type Link = z.infer<typeof linkSchema>;

/** The result of {@link repairSlot}: nothing to do, the link recreated, or no namespace or tap to repair. */
export type SlotCondition = 'intact' | 'relinked' | 'lost';

/**
 * Restores a slot that a VMM uses to its initial state. The rules are always replaced, which
 * interrupts no connection. A link that is missing or has other addresses is recreated, without
 * internet access. A namespace or a tap that no longer exists cannot be recreated under a
 * running VMM.
 */
export async function repairSlot(
  layout: SlotLayout,
  hostNamespace: string | undefined,
): Promise<SlotCondition> {
  const { namespace } = layout;
  if (!existsSync(`${NETNS_DIRECTORY}/${namespace}`)) return 'lost';
  const inside = await listLinks(['-4', 'addr', 'show'], namespace);
  if (!inside.some((link) => link.ifname === TAP_DEVICE)) return 'lost';
  await secureSlot(layout);
  const outside = await listLinks(['-4', 'addr', 'show'], hostNamespace);
  const linked =
    hasAddress(inside, PEER_INTERFACE, layout.hostAddress) &&
    hasAddress(outside, layout.hostInterface, layout.linkAddress);
  if (linked) return 'intact';
  await ipBatch([`link del ${layout.hostInterface}`], { namespace: hostNamespace }).catch(
    () => undefined,
  );
  await ipBatch(linkLines(layout), { namespace: hostNamespace });
  await ipBatch(peerLines(layout), { namespace });
  return 'relinked';
}

async function listLinks(args: readonly string[], namespace: string | undefined): Promise<Link[]> {
  return entriesOf(linkSchema, await ipJson(args, { namespace }));
}

function hasAddress(links: readonly Link[], name: string, address: string): boolean {
  return links.some(
    (link) => link.ifname === name && link.addr_info?.some((info) => info.local === address),
  );
}

/**
 * Removes a slot, complete or half-made; idempotent. The link is removed first and at once,
 * which disconnects a VMM that still runs in the namespace. Throws CommandError if part of it
 * remains.
 */
export async function removeSlot(
  names: InstanceNames,
  index: number,
  hostNamespace: string | undefined,
): Promise<void> {
  const hostInterface = `${names.interfacePrefix}${index}`;
  const namespace = `${names.namespacePrefix}${index}`;
  try {
    await ipBatch([`link del ${hostInterface}`, `netns del ${namespace}`], {
      namespace: hostNamespace,
      force: true,
    });
  } catch (error) {
    // Part of it was missing, or could not be removed: check what is left.
    const left = await listSlots(names, hostNamespace);
    if (left.includes(index) || !(error instanceof CommandError)) throw error;
  }
}

/** The indices of all slots of the instance of which a namespace or a link exists. */
export async function listSlots(
  names: InstanceNames,
  hostNamespace: string | undefined,
): Promise<number[]> {
  const links = await listLinks(['link', 'show', 'type', 'veth'], hostNamespace);
  const indices = [
    ...links.map((link) => indexInName(names.interfacePrefix, link.ifname)),
    ...(await listNamespaces()).map((name) => indexInName(names.namespacePrefix, name)),
  ].filter((index) => index !== undefined);
  return [...new Set(indices)].sort((a, b) => a - b);
}
