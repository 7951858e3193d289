import { describeDriver } from './driver-suite.ts';
import createDriver from './qemu-under-test.ts';
import { makeTestGuest } from './test-guest.ts';

describeDriver({
  name: 'QEMU',
  makeGuest: (directory) => makeTestGuest(directory, 'bzImage'),
  createDriver,
  driverModule: new URL('qemu-under-test.ts', import.meta.url),
  dropsPrivileges: true,
  memoryIsFile: true,
  isReal: true,
  hasPowerSwitch: true,
});
