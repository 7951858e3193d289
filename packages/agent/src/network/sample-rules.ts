import { hostFirewallScript } from './host-firewall.ts';
import { parseIpv4Prefix } from './ipv4.ts';
import { instanceNames, slotLayout } from './layout.ts';
import { slotRules } from './slot-namespace.ts';

/**
 * A script of nft(8) with every rule that the agent uses, of the host and of a slot. Applied in
 * a network namespace of its own, it shows whether this kernel supports them.
 */
export function sampleRules(): string {
  const names = instanceNames('sample');
  const block = parseIpv4Prefix('10.201.0.0/20');
  const host = { names, block, deniedRanges: [block], uplinkInterface: 'eth0', uid: 0 };
  return hostFirewallScript(host) + slotRules(slotLayout(names, block, 0));
}
