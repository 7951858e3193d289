import { closeSync, fstatSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { libc, SystemError } from './libc.ts';

const mmap = libc.func(
  'intptr_t mmap(intptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)',
);
const munmap = libc.func('int munmap(intptr_t address, size_t length)');
const madvise = libc.func('int madvise(intptr_t address, size_t length, int advice)');

const PROT_READ = 0x1;
const MAP_SHARED = 0x01;
const MADV_DONTNEED = 4;
/** Since Linux 5.14. */
const MADV_POPULATE_READ = 22;

/**
 * The content of a file at an address, for system calls that read it from there without a copy
 * in between. JavaScript never touches it: a read beyond the end of a truncated file, or of a
 * bad sector, makes such a call fail with EFAULT instead of raising SIGBUS.
 */
export class FileMapping implements Disposable {
  readonly address: number;
  /** Bytes that the file had when it was mapped. */
  readonly size: number;

  private constructor(address: number, size: number) {
    this.address = address;
    this.size = size;
  }

  /** Maps a file for reading; changes of the file are visible. Throws SystemError, or a file system error. */
  static open(path: string): FileMapping {
    const fd = openSync(path, 'r');
    try {
      const { size } = fstatSync(fd);
      // mmap(2) refuses a length of 0.
      if (size === 0) return new FileMapping(0, 0);
      const address: number = mmap(0, size, PROT_READ, MAP_SHARED, fd, 0);
      if (address === -1) throw new SystemError('mmap', koffi.errno());
      return new FileMapping(address, size);
    } finally {
      closeSync(fd);
    }
  }

  /** Reads a range ahead in one call. This is advice: a read error is reported when the range is used. */
  populate(offset: number, length: number): void {
    this.#advise(offset, length, MADV_POPULATE_READ);
  }

  /** Frees the page tables of a range; its content stays in the page cache. */
  forget(offset: number, length: number): void {
    this.#advise(offset, length, MADV_DONTNEED);
  }

  /** Page-aligned ranges only. */
  #advise(offset: number, length: number, advice: number): void {
    madvise(this.address + offset, length, advice);
  }

  [Symbol.dispose](): void {
    if (this.size > 0) munmap(this.address, this.size);
  }
}
