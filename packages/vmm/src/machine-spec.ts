import { TorporError } from '@torpor/protocol';
import type { MachineSpec } from './driver.ts';

/** Leaves room for the names of sockets within the 107 bytes of sun_path, unix(7). */
const MAX_RUN_DIRECTORY_BYTES = 80;

/**
 * Checks what the types cannot say, so that no value of a spec can mean
 * something else on a VMM's command line. Throws `invalid_request`.
 */
export function checkMachineSpec(spec: MachineSpec): void {
  check(/^[a-z0-9-]{1,64}$/.test(spec.id), `"${spec.id}" is not a valid machine name`);
  checkRange('vcpus', spec.vcpus, 1, 64);
  checkRange('memoryMiB', spec.memoryMiB, 64, 1024 * 1024);
  const runDirectoryBytes = Buffer.byteLength(spec.runDirectory);
  check(runDirectoryBytes <= MAX_RUN_DIRECTORY_BYTES, `${spec.runDirectory} is too long`);
  checkRange('console.maxBytes', spec.console.maxBytes, 4096, 1024 ** 3);
  const ids = new Set(spec.drives.map((drive) => drive.id));
  check(ids.size === spec.drives.length, 'two drives have the same id');
  // Within virtio-blk's limit of 20 bytes for a serial number; QEMU allows 31 bytes for a
  // node's name.
  for (const id of ids) check(/^[a-z][a-z0-9-]{0,19}$/.test(id), `"${id}" is not a valid drive id`);
  if (spec.network !== undefined) {
    const { namespace, tapDevice, macAddress } = spec.network;
    check(
      /^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$/.test(namespace),
      `"${namespace}" is not a valid namespace name`,
    );
    check(
      /^[A-Za-z0-9_][A-Za-z0-9_-]{0,14}$/.test(tapDevice),
      `"${tapDevice}" is not a valid interface name`,
    );
    check(
      /^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(macAddress),
      `"${macAddress}" is not a valid MAC address`,
    );
  }
  if (spec.user !== undefined) {
    checkRange('user.uid', spec.user.uid, 0, 2 ** 32 - 2);
    checkRange('user.gid', spec.user.gid, 0, 2 ** 32 - 2);
  }
}

function checkRange(name: string, value: number, least: number, most: number): void {
  const isInside = Number.isInteger(value) && value >= least && value <= most;
  check(isInside, `${name} must be a whole number from ${least} to ${most}, not ${value}`);
}

function check(isRight: boolean, what: string): void {
  if (!isRight) throw new TorporError('invalid_request', `Invalid machine: ${what}.`);
}
