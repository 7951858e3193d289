import type { MachineDescription } from '@torpor/vmm';
import { z } from 'zod';

export type { MachineDescription };

const machineSpecSchema = z.strictObject({
  id: z.string(),
  vcpus: z.int(),
  memoryMiB: z.int(),
  kernelPath: z.string(),
  initramfsPath: z.string(),
  kernelArguments: z.array(z.string()),
  drives: z.array(z.strictObject({ id: z.string(), path: z.string(), readOnly: z.boolean() })),
  network: z
    .strictObject({ namespace: z.string(), tapDevice: z.string(), macAddress: z.string() })
    .exactOptional(),
  runDirectory: z.string(),
  memoryFile: z.string(),
  console: z.strictObject({ path: z.string(), maxBytes: z.int() }),
  user: z.strictObject({ uid: z.int(), gid: z.int() }).exactOptional(),
});

/** A VMM driver's description of a machine, as it is kept in a sandbox's record. */
export const machineDescriptionSchema: z.ZodType<MachineDescription> = z.strictObject({
  driver: z.enum(['qemu', 'firecracker']),
  vmmVersion: z.string(),
  accelerator: z.enum(['kvm', 'tcg']),
  pid: z.int().positive(),
  startTimeTicks: z.string(),
  memoryOrigin: z.enum(['zeros', 'file', 'userfaultfd']),
  spec: machineSpecSchema,
});
