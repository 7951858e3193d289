import { expect, test } from 'vitest';
import { parseDevices } from './devices.ts';

test("depmod's list of devices is read; block devices and comments are left out", () => {
  const text = [
    '# Device nodes to trigger on-demand module loading.',
    'tun net/tun c10:200',
    'loop loop-control c10:237',
    'nbd nbd0 b43:0',
    '',
  ].join('\n');
  expect(parseDevices(text)).toEqual([
    { path: 'net/tun', major: 10, minor: 200 },
    { path: 'loop-control', major: 10, minor: 237 },
  ]);
});
