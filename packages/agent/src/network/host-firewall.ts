import { checkedInterfaceName, nftApply, nftInetTable, nftList } from '@torpor/linux';
import { z } from 'zod';
import { entriesOf } from './entries.ts';
import { formatIpv4Prefix, type Ipv4Prefix } from './ipv4.ts';
import type { InstanceNames } from './layout.ts';

/**
 * The firewall of the host: one nftables table for each instance. Its rules match the
 * instance's interfaces by name prefix and device group, so that they are the same for any
 * number of slots, and creating a slot does not change them.
 *
 * Whether a guest may reach the internet is the device group of its veth end. It is a property
 * of the device: it survives a restart of the agent as well as an `nft flush ruleset`, and a
 * recreated device has none and is denied.
 *
 * A `drop` of any table is final and an `accept` is not: another firewall on the machine can
 * still drop what is allowed here. See {@link forwardingObstacles}.
 */

/** The device group (`ip link set … group`) of slots whose guests may reach the internet. */
export const INTERNET_GROUP = 29_808;
/** The default group of every device. */
export const NO_INTERNET_GROUP = 0;

/**
 * Ranges that are not public unicast (RFC 6890), and 168.63.129.16, where Azure serves a
 * machine's credentials. The documentation prefixes are not listed: no host has such an
 * address.
 */
export const DENIED_RANGES = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '168.63.129.16/32',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '224.0.0.0/3',
] as const;

export interface HostFirewallOptions {
  readonly names: InstanceNames;
  readonly block: Ipv4Prefix;
  /** Denied in addition to {@link DENIED_RANGES}: an operator's own public addresses, for instance. */
  readonly deniedRanges: readonly Ipv4Prefix[];
  /** The only interface to the internet; if undefined, any that the routes use. */
  readonly uplinkInterface: string | undefined;
  /** The user that may open connections to guests. */
  readonly uid: number;
}

/** The script that replaces the table of this name in one transaction. */
export function hostFirewallScript(options: HostFirewallOptions): string {
  const { table, interfacePrefix } = options.names;
  const slots = `"${interfacePrefix}*"`;
  const denied = [...DENIED_RANGES, ...options.deniedRanges.map(formatIpv4Prefix)];
  const uplink =
    options.uplinkInterface === undefined
      ? ''
      : `oifname != "${checkedInterfaceName(options.uplinkInterface)}" goto refuse`;
  return `
table inet ${table} {}
delete table inet ${table}
table inet ${table} {
  set denied {
    type ipv4_addr
    flags interval
    auto-merge
    elements = { ${denied.join(', ')} }
  }
  chain prerouting {
    type filter hook prerouting priority raw; policy accept;
    iifname ${slots} meta nfproto ipv6 drop
    iifname ${slots} fib saddr . iif oif missing drop
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname ${slots} ct state established,related ct direction reply accept
    iifname ${slots} drop
  }
  chain refuse {
    limit rate 100/second burst 100 packets reject with icmpx admin-prohibited
    drop
  }
  chain from_guest {
    oifname ${slots} drop
    ip daddr @denied goto refuse
    meta iifgroup != ${INTERNET_GROUP} goto refuse
    ${uplink}
    accept
  }
  chain to_guest {
    ct state established,related ct direction reply accept
    drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname ${slots} goto from_guest
    oifname ${slots} goto to_guest
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname ${slots} meta skuid != ${options.uid} drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${formatIpv4Prefix(options.block)} oifname != ${slots} fib saddr type != local masquerade
  }
}
`;
}

/** The instance's table in the host, with a check that it is unchanged. */
export class HostFirewall {
  readonly #script: string;
  readonly #table: string;
  readonly #namespace: string | undefined;
  #applied: string | undefined;
  #check: Promise<'intact' | 'repaired'> | undefined;

  constructor(options: HostFirewallOptions, hostNamespace: string | undefined) {
    this.#script = hostFirewallScript(options);
    this.#table = options.names.table;
    this.#namespace = hostNamespace;
  }

  /** Installs the table, replacing any of its name. Throws CommandError. */
  async apply(): Promise<void> {
    await nftApply(this.#script, { namespace: this.#namespace });
    this.#applied = await this.#read();
  }

  /**
   * Installs the table again if it is not as {@link apply} left it. Calls at the same time
   * share one check. Throws CommandError.
   */
  ensure(): Promise<'intact' | 'repaired'> {
    this.#check ??= this.#ensure().finally(() => {
      this.#check = undefined;
    });
    return this.#check;
  }

  async #ensure(): Promise<'intact' | 'repaired'> {
    if (this.#applied !== undefined && (await this.#read()) === this.#applied) return 'intact';
    await this.apply();
    return 'repaired';
  }

  async #read(): Promise<string | undefined> {
    const table = await nftInetTable(this.#table, { namespace: this.#namespace });
    return table === undefined ? undefined : JSON.stringify(table);
  }
}

/** Removes the instance's table. Idempotent. Throws CommandError. */
export async function removeHostFirewall(
  names: InstanceNames,
  hostNamespace: string | undefined,
): Promise<void> {
  const { table } = names;
  await nftApply(`table inet ${table} {}\ndelete table inet ${table}\n`, {
    namespace: hostNamespace,
  });
}

const chainSchema = z.looseObject({
  chain: z.looseObject({
    family: z.string(),
    table: z.string(),
    name: z.string(),
    hook: z.string().optional(),
    policy: z.string().optional(),
  }),
});

/**
 * The chains of other firewalls that drop forwarded packets unless a rule of their own accepts
 * them (Docker's `ip filter FORWARD` is one), as `family table chain`. They may block the
 * guests' internet access.
 */
export async function forwardingObstacles(hostNamespace?: string): Promise<string[]> {
  const list = entriesOf(chainSchema, await nftList(['chains'], { namespace: hostNamespace }));
  return list
    .map(({ chain }) => chain)
    .filter((chain) => chain.hook === 'forward' && chain.policy === 'drop')
    .filter((chain) => chain.family !== 'ip6' && !chain.table.startsWith('torpor_'))
    .map((chain) => `${chain.family} ${chain.table} ${chain.name}`);
}
