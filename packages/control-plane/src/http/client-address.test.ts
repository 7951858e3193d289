import { expect, test } from 'vitest';
import { clientNetwork } from '../auth/attempts.ts';
import { clientAddress } from './client-address.ts';

const PROXIES = ['10.0.0.0/8', 'fd00::/8'];

test.each([
  ['203.0.113.5', undefined, '203.0.113.5'],
  ['::ffff:203.0.113.5', undefined, '203.0.113.5'],
  // Made up by a client that is no proxy.
  ['203.0.113.5', '198.51.100.1', '203.0.113.5'],
  ['10.0.0.1', '198.51.100.1', '198.51.100.1'],
  ['::ffff:10.0.0.1', '198.51.100.1', '198.51.100.1'],
  ['fd00::1', '2001:db8::1', '2001:db8::1'],
  // The proxy appends the address of its peer to what the client has sent.
  ['10.0.0.1', '1.2.3.4, 198.51.100.1', '198.51.100.1'],
  ['10.0.0.1', '1.2.3.4, 198.51.100.1, 10.0.0.2', '198.51.100.1'],
  ['10.0.0.1', '10.0.0.3, 10.0.0.2', '10.0.0.3'],
  ['10.0.0.1', 'unknown', '10.0.0.1'],
  ['10.0.0.1', '', '10.0.0.1'],
  [undefined, '1.2.3.4', undefined],
])('%s, forwarded for %s, is %s', (peer, forwardedFor, expected) => {
  expect(clientAddress(peer, forwardedFor, PROXIES)).toBe(expected);
});

test.each([
  ['203.0.113.5', '203.0.113.5'],
  ['::ffff:203.0.113.5', '203.0.113.5'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::'],
  ['2001:db8:1:2::1', '2001:db8:1:2::'],
  ['unknown', 'unknown'],
])('the attempts of %s count for %s', (address, network) => {
  expect(clientNetwork(address)).toBe(network);
});
