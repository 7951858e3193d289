import ipaddr from 'ipaddr.js';

/**
 * Where a request comes from: the peer of its connection or, behind trusted proxies, the last
 * address of `X-Forwarded-For` that is not one of theirs. What stands before that, the client
 * may have made up.
 */
export function clientAddress(
  peer: string | undefined,
  forwardedFor: string | undefined,
  trustedProxies: readonly string[],
): string | undefined {
  const hops = (forwardedFor ?? '').split(',').map((hop) => hop.trim());
  let address = peer;
  while (address !== undefined && isWithin(address, trustedProxies)) {
    const previous = hops.pop();
    if (previous === undefined || !ipaddr.isValid(previous)) break;
    address = previous;
  }
  return address !== undefined && ipaddr.isValid(address)
    ? ipaddr.process(address).toString()
    : address;
}

function isWithin(address: string, networks: readonly string[]): boolean {
  if (!ipaddr.isValid(address)) return false;
  const parsed = ipaddr.process(address);
  return networks.some((network) => {
    const [base, prefix] = ipaddr.parseCIDR(network);
    return base.kind() === parsed.kind() && parsed.match(base, prefix);
  });
}
