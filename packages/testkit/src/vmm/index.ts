/** The VMM that every machine can run. */
export { default as createQemuDriver } from './qemu-driver.ts';

/** Its default export creates the driver, for a test that does so in another process. */
export const QEMU_DRIVER_MODULE = new URL('./qemu-driver.ts', import.meta.url);
