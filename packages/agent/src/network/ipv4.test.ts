import { expect, test } from 'vitest';
import { formatIpv4Prefix, parseIpv4Prefix, prefixesOverlap } from './ipv4.ts';

test.each([
  ['10.201.0.0/16', '10.201.0.0/16'],
  ['255.255.255.255', '255.255.255.255/32'],
  ['192.168.77.10/24', '192.168.77.0/24'],
  ['203.0.113.9/0', '0.0.0.0/0'],
])('%s is the prefix %s', (text, prefix) => {
  expect(formatIpv4Prefix(parseIpv4Prefix(text))).toBe(prefix);
});

test.each([
  '',
  '10.0.0.0/33',
  '10.0.0/8',
  '10.0.0.256',
  '10.0.0.0/8/8',
  '10.0.0.0/-1',
  '::1/128',
  '10.0.0.0/8; drop',
])('%j is refused', (text) => {
  expect(() => parseIpv4Prefix(text)).toThrow(RangeError);
});

test.each([
  ['10.0.0.0/8', '10.201.8.0/21', true],
  ['10.201.8.0/21', '10.201.15.255/32', true],
  ['10.201.8.0/21', '10.201.16.0/21', false],
  ['128.0.0.0/1', '10.0.0.0/8', false],
])('whether %s and %s overlap: %s', (a, b, expected) => {
  expect(prefixesOverlap(parseIpv4Prefix(a), parseIpv4Prefix(b))).toBe(expected);
  expect(prefixesOverlap(parseIpv4Prefix(b), parseIpv4Prefix(a))).toBe(expected);
});
