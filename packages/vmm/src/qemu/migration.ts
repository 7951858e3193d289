import { setTimeout as sleep } from 'node:timers/promises';
import { TorporError, withFullStop } from '@torpor/protocol';
import { z } from 'zod';
import type { MachineDescription } from '../driver.ts';
import { HUNG_AFTER_MS } from '../hung-timeout.ts';
import { isAtLeast } from './find-qemu.ts';
import type { QmpClient } from './qmp-client.ts';
import { STATE_FD } from './run-files.ts';

// A saved state is QEMU's migration stream without the guest's RAM: with the
// capability `x-ignore-shared`, RAM in a shared memory-backend-file is left out
// of the stream. It stays in the file, or is mapped from one.

/**
 * The stream is a file that QEMU inherited: the path works for a user without access to the run
 * directory. `file:` exists since 8.2.
 */
const STATE_URI = `file:/proc/self/fd/${STATE_FD}`;
const POLL_MS = 10;
/** Bytes per second; QEMU's default is 128 MiB. */
const NO_BANDWIDTH_LIMIT = 10 ** 12;

const statusSchema = z.looseObject({ status: z.string(), running: z.boolean() });
const migrationSchema = z.looseObject({
  status: z.string().optional(),
  'error-desc': z.string().optional(),
});

/** Whether the machine's vCPUs run, and QEMU's own name for the state: enum RunState. */
async function queryStatus(
  control: QmpClient,
): Promise<{ readonly status: string; readonly running: boolean }> {
  return statusSchema.parse(await control.execute('query-status'));
}

/**
 * Writes the state of devices and vCPUs to the machine's state file. Throws
 * `invalid_state` if the machine runs or its RAM is not in a file of its own,
 * `vmm_failed` with QEMU's message if QEMU cannot.
 */
export async function saveDeviceState(
  control: QmpClient,
  { spec, vmmVersion }: MachineDescription,
): Promise<void> {
  checkVersion(vmmVersion);
  const { running } = await queryStatus(control);
  if (running) {
    throw new TorporError('invalid_state', `Machine ${spec.id} must be paused before it is saved.`);
  }
  const isShared = await control.execute('qom-get', { path: '/objects/ram', property: 'share' });
  if (isShared !== true) {
    const what = `The memory of machine ${spec.id} is a private mapping, which cannot be saved.`;
    throw new TorporError('invalid_state', what);
  }
  await leaveOutMemory(control);
  await control.execute('migrate-set-parameters', { 'max-bandwidth': NO_BANDWIDTH_LIMIT });
  await control.execute('migrate', { uri: STATE_URI });
  await completion(control, `Machine ${spec.id} could not be saved`);
}

/** Loads a state from the machine's state file; its vCPUs are paused then. Throws `vmm_failed`. */
export async function loadDeviceState(control: QmpClient, machineId: string): Promise<void> {
  await leaveOutMemory(control);
  await control.execute('migrate-incoming', { uri: STATE_URI });
  await completion(control, `Machine ${machineId} could not be restored`);
}

/** Throws `not_implemented` for a QEMU that cannot save to a file. */
export function checkVersion(version: string): void {
  if (isAtLeast(version, 8, 2)) return;
  throw new TorporError(
    'not_implemented',
    `QEMU ${version} cannot save and restore machines; 8.2 or newer can.`,
  );
}

async function leaveOutMemory(control: QmpClient): Promise<void> {
  await control.execute('migrate-set-capabilities', {
    capabilities: [{ capability: 'x-ignore-shared', state: true }],
  });
}

/** Waits for a migration that has been started. Throws `vmm_failed`: `failure`, with QEMU's message. */
export async function completion(control: QmpClient, failure: string): Promise<void> {
  const deadline = performance.now() + HUNG_AFTER_MS;
  for (;;) {
    const info = migrationSchema.parse(await control.execute('query-migrate'));
    if (info.status === 'completed') return;
    if (info.status === 'failed' || info.status === 'cancelled') {
      throw new TorporError(
        'vmm_failed',
        `${failure}: ${withFullStop(info['error-desc'] ?? info.status)}`,
      );
    }
    if (performance.now() > deadline) {
      throw new TorporError(
        'vmm_failed',
        `${failure}: not complete after ${HUNG_AFTER_MS / 1000} s.`,
      );
    }
    await sleep(POLL_MS);
  }
}
