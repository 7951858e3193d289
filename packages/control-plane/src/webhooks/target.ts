import { lookup as resolveName } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import { TorporError } from '@torpor/protocol';
import ipaddr from 'ipaddr.js';
import { Agent } from 'undici';

/** Networks besides the public internet that webhooks may call, in CIDR notation. */
export type AllowedNetworks = readonly string[];

const CONNECT_TIMEOUT_MS = 5_000;
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3');

/** The address of a webhook. Throws `invalid_request` for one that could not be called. */
export function parseTarget(text: string, allowed: AllowedNetworks): URL {
  const url = URL.parse(text);
  if (url === null || !['http:', 'https:'].includes(url.protocol)) {
    throw refused('It must be an http or https address.');
  }
  if (url.username !== '' || url.password !== '') {
    throw refused('It must not have a user or password; the receiver checks the signature.');
  }
  if (url.hash !== '') throw refused('It must not have a fragment.');
  const address = literalAddress(url);
  if (address !== undefined && !isAllowed(address, allowed)) throw privateAddress(address);
  return url;
}

/**
 * A dispatcher whose connections reach only addresses that are allowed. A name is checked by
 * what it resolves to, at the time of the connection, so that it cannot change in between.
 */
export function guardedAgent(allowed: AllowedNetworks): Agent {
  const lookup: LookupFunction = (hostname, options, callback) => {
    resolveName(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return callback(error, '');
      const usable = addresses.filter(({ address }) => isAllowed(address, allowed));
      const [first] = usable;
      if (first === undefined) return callback(privateAddress(hostname), '');
      if (options.all === true) callback(null, usable);
      else callback(null, first.address, first.family);
    });
  };
  return new Agent({
    connect: { lookup, timeout: CONNECT_TIMEOUT_MS },
    pipelining: 0,
  });
}

/** The IP address that a URL has in place of a name; no name is resolved for it. */
function literalAddress({ hostname }: URL): string | undefined {
  const address = hostname.replace(/^\[(.*)\]$/, '$1');
  return isIP(address) === 0 ? undefined : address;
}

/** Whether an address is of the public internet, or of a network that the operator allows. */
export function isAllowed(address: string, allowed: AllowedNetworks): boolean {
  if (!ipaddr.isValid(address)) return false;
  // An IPv4 address in an IPv6 one is that IPv4 address.
  const parsed = ipaddr.process(address);
  if (isPublic(parsed)) return true;
  return allowed.some((network) => {
    const range = ipaddr.parseCIDR(network);
    return range[0].kind() === parsed.kind() && parsed.match(range);
  });
}

function isPublic(address: ipaddr.IPv4 | ipaddr.IPv6): boolean {
  if (address.range() !== 'unicast') return false;
  // All that IANA has allocated. Outside are IPv4 addresses in a deprecated form (::127.0.0.1), for example.
  return address instanceof ipaddr.IPv4 || address.match(GLOBAL_UNICAST);
}

function refused(why: string): TorporError {
  return new TorporError('invalid_request', `The webhook cannot have this url. ${why}`, {
    issues: [{ field: 'url', problem: 'cannot be called' }],
  });
}

function privateAddress(where: string): TorporError {
  return new TorporError('invalid_request', `${where} is not an address of the public internet.`, {
    remedy:
      'Use a public address, or let the operator allow the network with the setting webhook_networks.',
  });
}
