import koffi from 'koffi';
import { checked, libc, SystemError } from './libc.ts';

const mmap = libc.func(
  'intptr_t mmap(intptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)',
);
const munmap = libc.func('int munmap(intptr_t address, size_t length)');

const PROT_READ_WRITE = 0x3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

/**
 * Page-aligned memory outside of the JavaScript heap whose address is known, for
 * system calls that take addresses inside of structures. Addresses of user space
 * are below 2^47 and thus exact as numbers.
 *
 * `bytes` must not be used after the arena is disposed of: the memory is unmapped.
 */
export class Arena implements Disposable {
  readonly address: number;
  readonly bytes: Uint8Array;

  /** `size` in bytes, a multiple of 4096. Throws SystemError when there is no memory. */
  constructor(size: number) {
    this.address = mmap(0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (this.address === -1) throw new SystemError('mmap', koffi.errno());
    this.bytes = bytesAt(this.address, size);
  }

  [Symbol.dispose](): void {
    munmap(this.address, this.bytes.length);
  }
}

const madvise = libc.func('int madvise(intptr_t address, size_t length, int advice)');
const MADV_DONTNEED = 4;

/** Gives pages of anonymous memory back: they read as zeros, or fault again (`MADV_DONTNEED`). */
export function discardPages(address: number, length: number): void {
  checked('madvise', madvise(address, length, MADV_DONTNEED));
}

/** The bytes at an address of this process, which must stay mapped while they are used. */
export function bytesAt(address: number, length: number): Uint8Array {
  return new Uint8Array(koffi.view(address, length));
}
