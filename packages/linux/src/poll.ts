import { constants } from 'node:os';
import koffi from 'koffi';
import { checked, libc } from './libc.ts';

const ppoll = libc.func('int ppoll(void *fds, unsigned long count, void *timeout, void *signals)');
const eventfd = libc.func('int eventfd(unsigned int initial, int flags)');
const close = libc.func('int close(int fd)');
const read = libc.func('intptr_t read(int fd, void *buffer, size_t length)');
const write = libc.func('intptr_t write(int fd, void *buffer, size_t length)');

const EFD_CLOEXEC_NONBLOCK = 0o2004000;

/** A bit of struct pollfd; poll(2). */
const POLLIN = 0x1;

/** struct pollfd: fd (4 bytes), events (2), revents (2). */
const ENTRY_BYTES = 8;

/**
 * The file descriptors that a thread waits for, with ppoll(2). Waiting blocks the thread: it is
 * meant for worker threads that do nothing else. The set is kept until {@link clear}, and
 * waiting does not allocate.
 */
export class PollSet {
  #bytes = new Uint8Array(16 * ENTRY_BYTES);
  #entries = new DataView(this.#bytes.buffer);
  #count = 0;
  /** Index of each descriptor's entry; undefined: not waited for. */
  #indexes: (number | undefined)[] = [];
  readonly #timeout = new BigInt64Array(2);

  clear(): void {
    this.#count = 0;
    this.#indexes = [];
  }

  /** Waits for input on `fd` too. */
  add(fd: number): void {
    const index = this.#count++;
    if (this.#count * ENTRY_BYTES > this.#bytes.byteLength) {
      const larger = new Uint8Array(this.#bytes.byteLength * 2);
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#entries = new DataView(larger.buffer);
    }
    this.#entries.setInt32(index * ENTRY_BYTES, fd, true);
    this.#entries.setInt16(index * ENTRY_BYTES + 4, POLLIN, true);
    this.#entries.setInt16(index * ENTRY_BYTES + 6, 0, true);
    this.#indexes[fd] = index;
  }

  /**
   * Blocks until something happens, or for `timeoutMs`, which may be a fraction
   * (undefined: forever). Returns how many descriptors have events.
   */
  wait(timeoutMs?: number): number {
    const timeout = timeoutMs === undefined ? null : this.#timespec(timeoutMs);
    for (;;) {
      const result: number = ppoll(this.#bytes, this.#count, timeout, null);
      if (result >= 0) return result;
      // An interrupted wait found nothing.
      if (koffi.errno() !== constants.errno.EINTR) return checked('ppoll', result);
    }
  }

  /** Whether the last wait found events of `fd`; false if it is not waited for. */
  isReady(fd: number): boolean {
    const index = this.#indexes[fd];
    return index !== undefined && this.#entries.getInt16(index * ENTRY_BYTES + 6, true) !== 0;
  }

  /** struct timespec: seconds and nanoseconds, 8 bytes each. */
  #timespec(milliseconds: number): BigInt64Array {
    const nanoseconds = Math.round(milliseconds * 1e6);
    this.#timeout[0] = BigInt(Math.floor(nanoseconds / 1e9));
    this.#timeout[1] = BigInt(nanoseconds % 1e9);
    return this.#timeout;
  }
}

/** An eventfd(2): wakes a thread that waits in a {@link PollSet}, from another thread. */
export class WakeUp implements Disposable {
  readonly fd: number;
  readonly #counter = new BigUint64Array(1);

  constructor() {
    this.fd = checked('eventfd', eventfd(0, EFD_CLOEXEC_NONBLOCK));
  }

  notify(): void {
    notifyFd(this.fd);
  }

  /** Clears all notifications so far. */
  reset(): void {
    read(this.fd, this.#counter, 8);
  }

  [Symbol.dispose](): void {
    close(this.fd);
  }
}

/** Notifies the {@link WakeUp} of another thread by its descriptor. */
export function notifyFd(fd: number): void {
  write(fd, BigUint64Array.of(1n), 8);
}

/** Closes a descriptor that a foreign call made. */
export function closeFd(fd: number): void {
  close(fd);
}
