import { checked, libc } from './libc.ts';

const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)');

/** _IOW('R', 0x03, int[2]); random(4). */
const RNDADDENTROPY = 0x40085203n;
/** _IO('R', 0x07). */
const RNDRESEEDCRNG = 0x5207n;
const HEADER_BYTES = 8;

/**
 * Mixes secret random bytes into the kernel's generator, credits all of their bits, and
 * makes it reseed at once, so that two guests restored from the same memory draw
 * different numbers; random(4). Throws SystemError (EPERM without CAP_SYS_ADMIN).
 *
 * @param device `/dev/urandom`, open.
 */
export function addEntropy(bytes: Uint8Array, device: number): void {
  // struct rand_pool_info: credited bits, size in bytes, the bytes.
  const info = Buffer.alloc(HEADER_BYTES + bytes.length);
  info.writeInt32LE(bytes.length * 8, 0);
  info.writeInt32LE(bytes.length, 4);
  info.set(bytes, HEADER_BYTES);
  try {
    checked('ioctl RNDADDENTROPY', ioctl(device, RNDADDENTROPY, info));
    checked('ioctl RNDRESEEDCRNG', ioctl(device, RNDRESEEDCRNG, null));
  } finally {
    info.fill(0);
  }
}
