import { cString } from './c-string.ts';
import { checked, libc } from './libc.ts';

const mknod = libc.func('int mknod(const uint8_t *path, uint32_t mode, uint64_t device)');

/**
 * Makes a FIFO or a device node (mknod(2)); `mode` with the bits of the type, `device` as
 * stat(2) has it in `st_rdev`. Throws SystemError.
 */
export function makeNode(path: Buffer, mode: number, device: bigint): void {
  checked('mknod', mknod(cString(path), mode, device));
}
