import { closeSync, openSync } from 'node:fs';
import { constants } from 'node:os';
import koffi from 'koffi';
import { checked, libc, SystemError } from './libc.ts';

/**
 * userfaultfd(2) and ioctl_userfaultfd(2), for a handler that received the
 * descriptor from the process whose memory it serves. Addresses are that process's,
 * below 2^47, and thus exact as numbers. The fast paths do not allocate.
 */

const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)');
// Of a length that fits an int: converting the result costs less.
const read = libc.func('int read(int fd, void *buffer, size_t length)');
const syscall = libc.func('long syscall(long number, int flags)');

// Request numbers and structures: linux/userfaultfd.h.
const UFFDIO_API = 0xc018aa3f;
const UFFDIO_REGISTER = 0xc020aa00;
const UFFDIO_UNREGISTER = 0x8010aa01;
const UFFDIO_WAKE = 0x8010aa02;
const UFFDIO_COPY = 0xc028aa03;
const UFFDIO_ZEROPAGE = 0xc020aa04;
const UFFD_API = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING = 1;
const SYS_USERFAULTFD_X86_64 = 323;
const O_CLOEXEC_NONBLOCK = 0o2004000;

export const UFFD_FEATURE_EVENT_REMOVE = 8;

/** Kinds of event that a handler receives. */
export const UFFD_EVENT = { PAGEFAULT: 0x12, FORK: 0x13, REMAP: 0x14, REMOVE: 0x15, UNMAP: 0x16 };

const MESSAGE_BYTES = 32;
const MESSAGES_PER_READ = 64;

/** Outcome of a call that failed; negative, so that it cannot be a count of bytes. */
export const UFFD_RETRY = -1;
/** The memory no longer exists, or the range is no longer registered. */
export const UFFD_GONE = -2;

/** Reads the events of one userfaultfd into a buffer of its own. */
export class UffdEvents {
  readonly #words = new Uint32Array((MESSAGE_BYTES / 4) * MESSAGES_PER_READ);

  /** How many events were read: 0 when none waits, {@link UFFD_GONE} when the process has exited. */
  read(fd: number): number {
    const bytes: number = read(fd, this.#words, this.#words.byteLength);
    if (bytes >= 0) return bytes === 0 ? UFFD_GONE : bytes / MESSAGE_BYTES;
    const errno = koffi.errno();
    if (errno === constants.errno.EAGAIN || errno === constants.errno.EINTR) return 0;
    return UFFD_GONE;
  }

  /** One of {@link UFFD_EVENT}. */
  kind(index: number): number {
    return (this.#words[index * 8] as number) & 0xff;
  }

  /** Of a PAGEFAULT: the address, rounded down to its page by the kernel. */
  faultAddress(index: number): number {
    return this.#address(index * 8 + 4);
  }

  /** Of a REMOVE or UNMAP: where the range begins. */
  rangeStart(index: number): number {
    return this.#address(index * 8 + 2);
  }

  /** Of a REMOVE or UNMAP: the end of the range. */
  rangeEnd(index: number): number {
    return this.#address(index * 8 + 4);
  }

  #address(word: number): number {
    return (this.#words[word] as number) + (this.#words[word + 1] as number) * 2 ** 32;
  }
}

const copyArgument = new Uint32Array(10);
const zeroArgument = new Uint32Array(8);

/**
 * Installs `length` bytes from `source` (an address of this process) at `target`. Returns how
 * many bytes are installed now, which may be fewer: a page that was installed already stops the
 * copy, and counts. {@link UFFD_RETRY}: the other process's memory is changing, or an event
 * waits to be read; read events, then try again.
 */
export function uffdCopy(fd: number, target: number, source: number, length: number): number {
  setAddress(copyArgument, 0, target);
  setAddress(copyArgument, 2, source);
  setAddress(copyArgument, 4, length);
  setAddress(copyArgument, 6, 0);
  setAddress(copyArgument, 8, 0);
  if (ioctl(fd, UFFDIO_COPY, copyArgument) === 0) return length;
  return outcome(fd, target, koffi.errno(), copyArgument, 8);
}

/** As {@link uffdCopy}, with zeros. Costs no memory where the range is anonymous. */
export function uffdZero(fd: number, target: number, length: number): number {
  setAddress(zeroArgument, 0, target);
  setAddress(zeroArgument, 2, length);
  setAddress(zeroArgument, 4, 0);
  setAddress(zeroArgument, 6, 0);
  if (ioctl(fd, UFFDIO_ZEROPAGE, zeroArgument) === 0) return length;
  return outcome(fd, target, koffi.errno(), zeroArgument, 6);
}

const PAGE_BYTES = 4096;

/** The word `at` and the next are the number of bytes installed, or a negative errno. */
function outcome(
  fd: number,
  target: number,
  errno: number,
  argument: Uint32Array,
  at: number,
): number {
  const high = argument[at + 1] as number;
  const installed = high >= 2 ** 31 ? 0 : (argument[at] as number) + high * 2 ** 32;
  if (installed > 0) return installed;
  if (errno === constants.errno.EEXIST) {
    uffdWake(fd, target, PAGE_BYTES);
    return PAGE_BYTES;
  }
  if (errno === constants.errno.EAGAIN) return UFFD_RETRY;
  if (errno === constants.errno.ESRCH || errno === constants.errno.ENOENT) return UFFD_GONE;
  throw new SystemError('ioctl(UFFDIO_COPY or UFFDIO_ZEROPAGE)', errno);
}

const rangeArgument = new Uint32Array(4);

/** Wakes the threads that wait for pages of this range, which another handler installed. */
function uffdWake(fd: number, start: number, length: number): void {
  setAddress(rangeArgument, 0, start);
  setAddress(rangeArgument, 2, length);
  ioctl(fd, UFFDIO_WAKE, rangeArgument);
}

/**
 * Gives a range back to the kernel: its missing pages are zeros from now on. Returns 0, or
 * {@link UFFD_GONE}.
 */
export function uffdUnregister(fd: number, start: number, length: number): number {
  setAddress(rangeArgument, 0, start);
  setAddress(rangeArgument, 2, length);
  const result: number = ioctl(fd, UFFDIO_UNREGISTER, rangeArgument);
  // Unlike the other requests, this one fails with ENOMEM for memory that no longer exists.
  if (result < 0 && koffi.errno() === constants.errno.ENOMEM) return UFFD_GONE;
  return checked('ioctl(UFFDIO_UNREGISTER)', result);
}

const ioctlValue = libc.func('int ioctl(int fd, unsigned long request, unsigned long value)');
const USERFAULTFD_IOC_NEW = 0xaa00;
const DEVICE = '/dev/userfaultfd';

/**
 * The system call needs CAP_SYS_PTRACE (or `vm.unprivileged_userfaultfd`), the
 * device that one may open it: Documentation/admin-guide/mm/userfaultfd.rst.
 */
function openUserfaultfd(): number {
  const fd = Number(syscall(SYS_USERFAULTFD_X86_64, O_CLOEXEC_NONBLOCK));
  if (fd >= 0 || koffi.errno() !== constants.errno.EPERM) return checked('userfaultfd', fd);
  const device = openSync(DEVICE, 'r+');
  try {
    const made = ioctlValue(device, USERFAULTFD_IOC_NEW, O_CLOEXEC_NONBLOCK);
    return checked('ioctl(USERFAULTFD_IOC_NEW)', made);
  } finally {
    closeSync(device);
  }
}

/**
 * A userfaultfd for this process's own memory, as a VMM makes one. The caller
 * closes it. Throws SystemError, or a file system error where the user may
 * neither make one nor open the device.
 */
export function createUserfaultfd(features: number): number {
  const fd = openUserfaultfd();
  const api = BigUint64Array.of(BigInt(UFFD_API), BigInt(features), 0n);
  checked('ioctl(UFFDIO_API)', ioctl(fd, UFFDIO_API, api));
  return fd;
}

/** Registers a range: faults on its missing pages are reported. */
export function uffdRegister(fd: number, start: number, length: number): void {
  const mode = BigInt(UFFDIO_REGISTER_MODE_MISSING);
  const argument = BigUint64Array.of(BigInt(start), BigInt(length), mode, 0n);
  checked('ioctl(UFFDIO_REGISTER)', ioctl(fd, UFFDIO_REGISTER, argument));
}

function setAddress(words: Uint32Array, at: number, value: number): void {
  // Elements take the low 32 bits of the integer part.
  words[at] = value;
  words[at + 1] = value / 2 ** 32;
}
