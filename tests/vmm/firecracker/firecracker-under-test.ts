import { FirecrackerDriver, findFirecracker, type VmmDriver } from '@torpor/vmm';

/** The Firecracker that TORPOR_FIRECRACKER names. */
export default async function createFirecrackerDriver(): Promise<VmmDriver> {
  return new FirecrackerDriver({
    firecracker: await findFirecracker({
      firecracker: process.env.TORPOR_FIRECRACKER,
      jailer: process.env.TORPOR_JAILER,
    }),
  });
}
