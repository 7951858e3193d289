import { expect, test } from 'vitest';
import { isAllowed, parseTarget } from './target.ts';

test.each([
  '127.0.0.1',
  '10.1.2.3',
  '172.16.0.1',
  '192.168.1.1',
  '169.254.169.254',
  '100.64.0.1',
  '0.0.0.0',
  '224.0.0.1',
  '255.255.255.255',
  '192.0.0.1',
  '198.18.0.1',
  '::',
  '::1',
  'fe80::1',
  'fc00::1',
  'ff02::1',
  '::ffff:127.0.0.1',
  '::ffff:10.0.0.1',
  '64:ff9b::10.0.0.1',
  '2002:7f00:1::',
  '2001:db8::1',
  '::2',
  '::7f00:1',
  '::a00:1',
  '::ffff:0:127.0.0.1',
  '64:ff9b:1::1',
  '100:0:0:1::1',
  'fec0::1',
  '3fff::1',
  '4000::1',
  'e000::1',
  '240.0.0.1',
  '192.0.2.1',
  'nonsense',
])('%s is not of the public internet', (address) => {
  expect(isAllowed(address, [])).toBe(false);
});

test.each(['1.1.1.1', '93.184.216.34', '2606:4700:4700::1111', '::ffff:1.1.1.1'])(
  '%s is of the public internet',
  (address) => {
    expect(isAllowed(address, [])).toBe(true);
  },
);

test('a network that the operator allows can be called, and no other', () => {
  const allowed = ['10.1.0.0/16', 'fd00::/8'];
  expect(isAllowed('10.1.2.3', allowed)).toBe(true);
  expect(isAllowed('::ffff:10.1.2.3', allowed)).toBe(true);
  expect(isAllowed('fd12::1', allowed)).toBe(true);
  expect(isAllowed('10.2.0.1', allowed)).toBe(false);
  expect(isAllowed('fe80::1', allowed)).toBe(false);
});

test.each([
  'ftp://example.com/',
  'file:///etc/passwd',
  'example.com',
  'https://user:pass@example.com/',
  'https://example.com/#part',
  'http://127.0.0.1/',
  'http://127.1/',
  'http://2130706433/',
  'http://0x7f000001/',
  'http://[::1]:7070/',
  'http://[::ffff:169.254.169.254]/',
  'http://[::127.0.0.1]/',
  'http://127.0.0.1./',
  'http://①②⑦.0.0.1/',
  'http://0/',
])('%s is refused', (url) => {
  expect(() => parseTarget(url, [])).toThrow();
});

test.each(['https://example.com/hook?token=a', 'http://1.1.1.1:8080/', 'http://[2606:4700::1]/'])(
  '%s can be called',
  (url) => {
    expect(parseTarget(url, []).href).toBe(url);
  },
);
