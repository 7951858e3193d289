import { isIPv4 } from 'node:net';

/** An IPv4 prefix; `base` is a 32-bit unsigned number whose host bits are zero. */
export interface Ipv4Prefix {
  readonly base: number;
  readonly length: number;
}

/** The number of addresses in the prefix. */
export function prefixSize(prefix: Ipv4Prefix): number {
  return 2 ** (32 - prefix.length);
}

/**
 * Parses `a.b.c.d/length`, or an address alone as a /32; host bits are cleared.
 * Throws RangeError for anything else.
 */
export function parseIpv4Prefix(text: string): Ipv4Prefix {
  const [address = '', length = '32', ...rest] = text.split('/');
  if (!isIPv4(address) || !/^\d{1,2}$/.test(length) || Number(length) > 32 || rest.length > 0) {
    throw new RangeError(`${JSON.stringify(text)} is not an IPv4 prefix.`);
  }
  const number = address.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const size = 2 ** (32 - Number(length));
  return { base: number - (number % size), length: Number(length) };
}

export function formatIpv4Address(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

export function formatIpv4Prefix(prefix: Ipv4Prefix): string {
  return `${formatIpv4Address(prefix.base)}/${prefix.length}`;
}

/** Whether two prefixes have an address in common: one then contains the other. */
export function prefixesOverlap(a: Ipv4Prefix, b: Ipv4Prefix): boolean {
  return a.base < b.base + prefixSize(b) && b.base < a.base + prefixSize(a);
}
