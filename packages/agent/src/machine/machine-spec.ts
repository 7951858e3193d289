import { GUEST, GUEST_DRIVES } from '@torpor/protocol';
import type { DriveSpec, MachineSpec } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import type { NetworkSlot } from '../network/slot.ts';
import type { MachineContext } from './context.ts';

const CONSOLE_LOG_BYTES = 1024 * 1024;

/** The parts of a machine, for a boot or a restore. */
export interface MachineParts {
  readonly vcpus: number;
  readonly memoryMiB: number;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /** The base image. */
  readonly basePath: string;
  readonly agentDrivePath: string;
}

/** The machine of a sandbox in a network slot; the VMM's command line follows from it. */
export function machineSpec(
  { host, id, uid }: MachineContext,
  slot: NetworkSlot,
  parts: MachineParts,
): MachineSpec {
  const { layout } = host;
  const { basePath, agentDrivePath, ...shape } = parts;
  return {
    ...shape,
    id,
    kernelArguments: host.kernelArguments,
    drives: [
      readOnly(GUEST_DRIVES.base.id, basePath),
      readOnly(GUEST_DRIVES.agent.id, agentDrivePath),
      { id: GUEST_DRIVES.upper.id, path: layout.upperDisk(id), readOnly: false },
    ],
    network: {
      namespace: slot.namespace,
      tapDevice: slot.tapDevice,
      macAddress: GUEST.macAddress,
    },
    runDirectory: layout.runDirectory(id),
    memoryFile: layout.memoryFile(id),
    console: { path: layout.consoleLog(id), maxBytes: CONSOLE_LOG_BYTES },
    user: { uid, gid: uid },
  };
}

/** The kernel, in the format that this host's VMM boots. */
export function bootKernel({ artifacts, driver }: HostContext): string {
  const { vmlinuxPath, qemuPath } = artifacts.kernel;
  return driver.capabilities.kernelFormat === 'elf' ? vmlinuxPath : qemuPath;
}

function readOnly(id: string, path: string): DriveSpec {
  return { id, path, readOnly: true };
}
