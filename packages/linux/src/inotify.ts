import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import koffi from 'koffi';
import { checked, libc, SystemError } from './libc.ts';

const inotifyInit1 = libc.func('int inotify_init1(int flags)');
const inotifyAddWatch = libc.func('int inotify_add_watch(int fd, str pathname, uint32_t mask)');
const inotifyRmWatch = libc.func('int inotify_rm_watch(int fd, int wd)');
const readInto = libc.func('intptr_t read(int fd, void *buf, size_t count)');

const IN_NONBLOCK = 0o4000;
const IN_CLOEXEC = 0o2000000;

/** Bits of inotify(7): what to watch for, and what happened. */
export const IN = {
  MODIFY: 0x2,
  ATTRIB: 0x4,
  MOVED_FROM: 0x40,
  MOVED_TO: 0x80,
  CREATE: 0x100,
  DELETE: 0x200,
  DELETE_SELF: 0x400,
  MOVE_SELF: 0x800,
  UNMOUNT: 0x2000,
  Q_OVERFLOW: 0x4000,
  IGNORED: 0x8000,
  ONLYDIR: 0x1000000,
  DONT_FOLLOW: 0x2000000,
  ISDIR: 0x40000000,
} as const;

export interface InotifyEvent {
  /** Number of the watch; -1 for `Q_OVERFLOW`. */
  readonly watch: number;
  readonly mask: number;
  /** Joins the two halves of a rename; otherwise 0. */
  readonly cookie: number;
  /** Name inside the watched directory; empty for the directory itself. */
  readonly name: string;
}

/** sizeof(struct inotify_event) without the name. */
const HEADER_BYTES = 16;
const BUFFER_BYTES = 64 * 1024;

/**
 * An inotify instance (inotify(7)). The event loop polls its descriptor, so that waiting costs
 * neither a thread nor a timer. The handler gets the events of each read in their order; an
 * overflow of the kernel's queue is an event with `Q_OVERFLOW`.
 *
 * Errors are {@link SystemError}s: `EMFILE` when the user has too many instances
 * (fs.inotify.max_user_instances), `ENOSPC` when it has too many watches
 * (fs.inotify.max_user_watches).
 */
export class Inotify implements Disposable {
  readonly #fd: number;
  readonly #poll: ReturnType<typeof koffi.node.poll>;
  readonly #onEvents: (events: InotifyEvent[]) => void;
  readonly #buffer = Buffer.alloc(BUFFER_BYTES);
  #open = true;

  constructor(onEvents: (events: InotifyEvent[]) => void) {
    this.#onEvents = onEvents;
    this.#fd = checked('inotify_init1', inotifyInit1(IN_NONBLOCK | IN_CLOEXEC));
    this.#poll = koffi.node.poll(this.#fd, { readable: true }, () => this.drain());
  }

  /**
   * Watches a path, or changes the mask of the watch that its inode already has.
   * Returns the number of the watch. Throws SystemError: `ENOENT`, `ENOTDIR`, `ENOSPC`, …
   */
  add(path: string, mask: number): number {
    // The number of a closed descriptor may be another file's by now.
    if (!this.#open) throw new SystemError('inotify_add_watch', constants.errno.EBADF);
    return checked('inotify_add_watch', inotifyAddWatch(this.#fd, path, mask));
  }

  /** Removes a watch; one that the kernel has removed already is no error. */
  remove(watch: number): void {
    if (!this.#open || inotifyRmWatch(this.#fd, watch) === 0) return;
    if (koffi.errno() === constants.errno.EINVAL) return;
    throw new SystemError('inotify_rm_watch', koffi.errno());
  }

  /** Delivers, now, every event that the kernel has queued. */
  drain(): void {
    while (this.#open) {
      const length = Number(readInto(this.#fd, this.#buffer, BUFFER_BYTES));
      if (length < 0) {
        const errno = koffi.errno();
        if (errno === constants.errno.EAGAIN) return;
        if (errno === constants.errno.EINTR) continue;
        throw new SystemError('read', errno);
      }
      if (length === 0) return;
      this.#onEvents(parseEvents(this.#buffer.subarray(0, length)));
    }
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    this.#poll.close();
    closeSync(this.#fd);
  }
}

function parseEvents(buffer: Buffer): InotifyEvent[] {
  const events: InotifyEvent[] = [];
  let offset = 0;
  while (offset + HEADER_BYTES <= buffer.length) {
    const nameBytes = buffer.readUInt32LE(offset + 12);
    const start = offset + HEADER_BYTES;
    const name = buffer.subarray(start, start + nameBytes);
    const end = name.indexOf(0);
    events.push({
      watch: buffer.readInt32LE(offset),
      mask: buffer.readUInt32LE(offset + 4),
      cookie: buffer.readUInt32LE(offset + 8),
      name: name.toString('utf8', 0, end < 0 ? nameBytes : end),
    });
    offset = start + nameBytes;
  }
  return events;
}
