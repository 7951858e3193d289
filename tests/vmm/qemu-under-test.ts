import { findQemu, QemuDriver, type VmmDriver } from '@torpor/vmm';

/** Pure emulation, which every machine has. */
export default async function createQemuDriver(): Promise<VmmDriver> {
  return new QemuDriver({ qemu: await findQemu(), accelerator: 'tcg' });
}
