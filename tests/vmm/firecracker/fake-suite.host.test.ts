import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FakeInstallation } from '@torpor/testkit/firecracker';
import { afterAll, beforeAll, describe, vi } from 'vitest';
import { describeDriver } from '../driver-suite.ts';
import createDriver from './firecracker-under-test.ts';

// Each machine is a Node process, which starts slowly on a busy host.
vi.setConfig({ testTimeout: 240_000 });

describe.each([
  { jailer: false, name: 'Firecracker (the fake)' },
  { jailer: true, name: 'Firecracker (the fake, jailed)' },
])('$name', ({ jailer, name }) => {
  let fakes: FakeInstallation;

  beforeAll(async () => {
    fakes = await FakeInstallation.create();
    const { path } = await fakes.install({}, { jailer });
    process.env.TORPOR_FIRECRACKER = path;
  });

  afterAll(async () => {
    delete process.env.TORPOR_FIRECRACKER;
    await fakes[Symbol.asyncDispose]();
  });

  describeDriver({
    name,
    makeGuest: async (directory) => {
      const path = join(directory, 'kernel');
      await writeFile(path, 'the fake reads no kernel');
      return { kernelPath: path, initramfsPath: path };
    },
    createDriver,
    driverModule: new URL('firecracker-under-test.ts', import.meta.url),
    dropsPrivileges: true,
    memoryIsFile: false,
    isReal: false,
    hasPowerSwitch: false,
  });
});
