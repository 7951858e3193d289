// The requirements of tests beyond the npm packages: programs, kernel features, guest artefacts.

import { prepareGuest } from '@torpor/agent/guest-artifacts';
import { REQUIREMENTS, setUpHost } from '@torpor/agent/host-setup';
import type { Io } from '@torpor/cli';
import { printStatus, progressStatus, setupReport } from '@torpor/cli/testing';
import { loadConfig } from '@torpor/control-plane/config';
import { ImageStore, kernelArguments } from '@torpor/images';
import { ENVD_ENTRY } from '@torpor/testkit/guests';
import { findQemu, probeAccelerator } from '@torpor/vmm';
import { POSTGRESQL, withoutServer } from './postgres.ts';

/**
 * Sets the machine up as `torpor setup` does, installs PostgreSQL, and creates the guest artefacts. Returns the
 * environment variables for the tests. Throws TorporError.
 */
export async function prepareHost(io: Io): Promise<Record<string, string>> {
  const requirements = [...REQUIREMENTS, POSTGRESQL];
  await withoutServer(() => setUpHost({ report: setupReport(io), requirements }));
  const { config } = await loadConfig({ env: process.env });
  const { cacheDir } = config;
  const artifacts = await prepareGuest(new ImageStore({ cacheDir }), {
    cacheDir,
    envdEntry: ENVD_ENTRY,
    onProgress: progressStatus(io),
  });
  // Once for all tests: each has its own data directory, and would probe again.
  const { accelerator, reason } = await probeAccelerator({
    qemu: await findQemu(config.qemu),
    kernelPath: artifacts.kernel.qemuPath,
    kernelArguments: kernelArguments(),
    stateDirectory: cacheDir,
    forced: config.accelerator === 'auto' ? undefined : config.accelerator,
    onProbe: () => printStatus(io, 'booting a guest under KVM and in emulation, to use the faster'),
  });
  printStatus(io, `the tests run under ${accelerator}: ${reason}`);
  return { TORPOR_CACHE_DIR: cacheDir, TORPOR_ACCELERATOR: accelerator };
}
