import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import {
  Arena,
  connectUnix,
  createUserfaultfd,
  sendWithFd,
  UFFD_FEATURE_EVENT_REMOVE,
  uffdRegister,
} from '@torpor/linux';

/** RAM of the fake's guest, with the dirty log that KVM would keep. */
export class GuestMemory {
  readonly #arena: Arena;
  readonly #dirty: Uint8Array;
  readonly #isTracked: boolean;

  constructor(mebibytes: number, isTracked: boolean) {
    this.#arena = new Arena(mebibytes * 1024 * 1024);
    this.#dirty = new Uint8Array(this.#arena.bytes.length / PAGE);
    this.#isTracked = isTracked;
  }

  /** A view: reading it may wait for a page server. */
  page(index: number): Uint8Array {
    return this.#arena.bytes.subarray(index * PAGE, (index + 1) * PAGE);
  }

  get pages(): number {
    return this.#dirty.length;
  }

  write(index: number, bytes: Uint8Array, at = 0): void {
    this.page(index).set(bytes, at);
    this.#dirty[index] = 1;
  }

  /** Loads a file as a private mapping of it would read. */
  loadFile(path: string): void {
    const fd = openSync(path, 'r');
    try {
      const { bytes } = this.#arena;
      if (readSync(fd, bytes, 0, bytes.length, 0) !== bytes.length) {
        throw new Error('the memory file is too short');
      }
    } finally {
      closeSync(fd);
    }
  }

  /** The handshake with a page server: one message, and a connection that stays (from 1.12 on). */
  serveFrom(socketPath: string, minor: number): void {
    const { address, bytes } = this.#arena;
    const uffd = createUserfaultfd(UFFD_FEATURE_EVENT_REMOVE);
    uffdRegister(uffd, address, bytes.length);
    const region = {
      base_host_virt_addr: address,
      size: bytes.length,
      offset: 0,
      ...(minor >= 12 ? { page_size: PAGE } : {}),
      page_size_kib: PAGE,
    };
    const connection = connectUnix(socketPath);
    sendWithFd(connection, Buffer.from(JSON.stringify([region])), uffd);
    if (minor < 12) closeSync(connection);
  }

  /** Writes every page to a file, dirty or not. */
  copyTo(path: string): void {
    writeFileSync(path, Buffer.from(this.#arena.bytes));
  }

  /** Writes a snapshot's memory file as Firecracker does: without truncating one of the right size. */
  dump(path: string, type: 'Full' | 'Diff'): void {
    const fd = openSync(path, 'a+', 0o644);
    const size = this.#arena.bytes.length;
    closeSync(fd);
    const file = openSync(path, 'r+');
    try {
      ftruncateSync(file, size);
      for (let index = 0; index < this.pages; index++) {
        const page = this.page(index);
        const isWanted =
          type === 'Diff' && this.#isTracked ? this.#dirty[index] === 1 : !isZero(page);
        if (isWanted) writeSync(file, page, 0, PAGE, index * PAGE);
      }
      fsyncSync(file);
      this.#dirty.fill(0);
    } finally {
      closeSync(file);
    }
  }
}

const PAGE = 4096;
const ZEROS = Buffer.alloc(PAGE);

function isZero(page: Uint8Array): boolean {
  return ZEROS.equals(page);
}

const COUNT_PAGE = 0;
/** Written only at boot. */
const STATIC_PAGES = { first: 256, count: 512 };
/** Written at boot, zeroed by the first tick after each resume: "changed to zero". */
const SCRATCH_PAGES = { first: 16, count: 64 };
const CHECKED_PER_TICK = 32;
const TICK_MS = 50;

const staticByte = (index: number) => (index % 251) + 1;

export interface GuestDrive {
  readonly fd: number;
  readonly readOnly: boolean;
}

/**
 * Acts as the guest of the driver suite (test-guest.ts): its state is in RAM, so it continues
 * after a restore only if its RAM is right, and otherwise prints what is wrong.
 */
export class FakeGuest {
  readonly #memory: GuestMemory;
  #timer: NodeJS.Timeout | undefined;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  boot(bootArguments: string, drives: readonly GuestDrive[], macAddress: string | undefined): void {
    if (bootArguments.includes('guest=panic')) panic();
    if (bootArguments.includes('guest=poweroff')) {
      print('guest: powering off');
      print('[    1.2] reboot: Power off not available: System halted instead');
      return;
    }
    useDrives(drives);
    if (macAddress !== undefined) print(`guest: eth0 is ${macAddress}`);
    for (let index = 0; index < STATIC_PAGES.count; index++) {
      const page = STATIC_PAGES.first + index;
      this.#memory.write(page, Buffer.alloc(PAGE, staticByte(page)));
    }
    for (let index = 0; index < SCRATCH_PAGES.count; index++) {
      this.#memory.write(SCRATCH_PAGES.first + index, Buffer.alloc(PAGE, 0xa5));
    }
    print('guest: ready');
    this.resume();
  }

  resume(): void {
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
  }

  pause(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #tick(): void {
    const count = this.#count() + 1;
    this.#memory.write(COUNT_PAGE, Buffer.from(Uint32Array.of(count).buffer));
    const scratch = SCRATCH_PAGES.first + (count % SCRATCH_PAGES.count);
    const expected = count <= SCRATCH_PAGES.count ? 0xa5 : 0;
    this.#check(scratch, expected);
    this.#memory.write(scratch, ZEROS);
    for (let index = 0; index < CHECKED_PER_TICK; index++) {
      const at = (count * CHECKED_PER_TICK + index) % STATIC_PAGES.count;
      const page = STATIC_PAGES.first + at;
      this.#check(page, staticByte(page));
    }
    print(`guest: count ${count}`);
  }

  #check(page: number, byte: number): void {
    if (!Buffer.alloc(PAGE, byte).equals(this.#memory.page(page))) {
      print(`guest: page ${page} is wrong`);
    }
  }

  #count(): number {
    return Buffer.from(this.#memory.page(COUNT_PAGE).slice(0, 4)).readUInt32LE();
  }
}

function useDrives(drives: readonly GuestDrive[]): void {
  const [first, last] = [drives[0], drives.at(-1)];
  if (first !== undefined) {
    const buffer = Buffer.alloc(64);
    readSync(first.fd, buffer, 0, buffer.length, 0);
    const [text] = buffer.toString().split('\0');
    print(`guest: base says ${text}, ro ${first.readOnly ? 1 : 0}`);
  }
  if (last !== undefined && !last.readOnly) writeSync(last.fd, 'text of the guest', 0);
}

function panic(): never {
  const message = 'Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300';
  print('guest: ending');
  print(`[    1.0] ${message}`);
  for (let frame = 0; frame < 25; frame++) print(`[    1.0]  function_${frame}+0x10/0x20`);
  print(`[    1.1] ---[ end ${message} ]---`);
  process.exit(0);
}

/** Prints to the serial console, which is standard output; what does not fit is lost. */
function print(line: string): void {
  try {
    writeSync(1, `${line}\r\n`);
  } catch {
    // The console is full, because it is not read.
  }
}
