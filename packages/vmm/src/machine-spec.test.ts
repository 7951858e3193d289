import { expect, test } from 'vitest';
import type { MachineSpec } from './driver.ts';
import { checkMachineSpec } from './machine-spec.ts';

const RIGHT: MachineSpec = {
  id: 'sb0123',
  vcpus: 1,
  memoryMiB: 512,
  kernelPath: '/k',
  initramfsPath: '/i',
  kernelArguments: [],
  drives: [
    { id: 'base', path: '/a', readOnly: true },
    { id: 'upper', path: '/b', readOnly: false },
  ],
  network: { namespace: 'tp-1', tapDevice: 'tap0', macAddress: '02:fc:00:00:00:05' },
  runDirectory: '/run/x',
  memoryFile: '/dev/shm/x',
  console: { path: '/run/x/console.log', maxBytes: 65536 },
  user: { uid: 61000, gid: 61000 },
};

test('a valid spec passes', () => {
  expect(() => checkMachineSpec(RIGHT)).not.toThrow();
});

test.for([
  ['id', { id: 'a,b' }],
  ['vcpus', { vcpus: 0 }],
  ['vcpus', { vcpus: 1.5 }],
  ['memory', { memoryMiB: 2 ** 40 }],
  ['run directory', { runDirectory: `/${'x'.repeat(80)}` }],
  ['console', { console: { path: '/c', maxBytes: 0 } }],
  ['duplicate drives', { drives: [RIGHT.drives[0], RIGHT.drives[0]] }],
  ['drive id', { drives: [{ id: 'a,readonly=off', path: '/a', readOnly: true }] }],
  ['tap', { network: { ...RIGHT.network, tapDevice: 'tap0,script=/x' } }],
  ['namespace', { network: { ...RIGHT.network, namespace: '../../proc/1/ns/net' } }],
  ['namespace', { network: { ...RIGHT.network, namespace: '..' } }],
  ['mac', { network: { ...RIGHT.network, macAddress: 'here' } }],
  ['user', { user: { uid: -1, gid: 0 } }],
])('a spec with an invalid %s is refused', ([, change]) => {
  const spec = Object.assign({}, RIGHT, change);
  expect(() => checkMachineSpec(spec)).toThrow(
    expect.objectContaining({ code: 'invalid_request' }),
  );
});
