import { describeDriver } from './driver-suite.ts';
import createDriver from './qemu-under-test.ts';

describeDriver({
  name: 'QEMU',
  kernelFormat: 'bzImage',
  createDriver,
  driverModule: new URL('qemu-under-test.ts', import.meta.url),
  dropsPrivileges: true,
});
