import { ensureUffdShim, findQemu, QemuDriver, type VmmDriver } from '@torpor/vmm';

/** Pure emulation, which every machine has. */
export default async function createQemuDriver(): Promise<VmmDriver> {
  const cacheDir = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';
  return new QemuDriver({
    qemu: await findQemu(process.env.TORPOR_QEMU),
    accelerator: 'tcg',
    uffdShimPath: await ensureUffdShim(cacheDir),
  });
}
