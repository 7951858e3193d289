import { createQemuDriver, QEMU_DRIVER_MODULE } from '@torpor/testkit/vmm';
import { describeDriver } from './driver-suite.ts';
import { makeTestGuest } from './test-guest.ts';

describeDriver({
  name: 'QEMU',
  makeGuest: (directory) => makeTestGuest(directory, 'bzImage'),
  createDriver: createQemuDriver,
  driverModule: QEMU_DRIVER_MODULE,
  dropsPrivileges: true,
  memoryIsFile: true,
  isReal: true,
  hasPowerSwitch: true,
});
