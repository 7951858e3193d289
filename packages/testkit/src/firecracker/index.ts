/** Programs that behave as Firecracker and its jailer do, with a guest that counts. */
export type { FakeBehaviour } from './fake-firecracker.ts';
export { FakeInstallation } from './fake-installation.ts';
