import { describe } from 'vitest';
import { describeDriver } from '../driver-suite.ts';
import { makeTestGuest } from '../test-guest.ts';
import createDriver from './firecracker-under-test.ts';

// Needs KVM and a release of Firecracker: TORPOR_FIRECRACKER=/path/to/firecracker.
describe.runIf(process.env.TORPOR_FIRECRACKER !== undefined)('a real one', () => {
  describeDriver({
    name: 'Firecracker',
    makeGuest: (directory) => makeTestGuest(directory, 'vmlinux'),
    createDriver,
    driverModule: new URL('firecracker-under-test.ts', import.meta.url),
    dropsPrivileges: true,
    memoryIsFile: false,
    isReal: true,
    hasPowerSwitch: false,
  });
});
