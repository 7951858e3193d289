import { closeSync, constants, openSync } from 'node:fs';
import { checked, libc } from './libc.ts';

const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)');

// asm-generic/ioctls.h
const TCGETS = 0x5401;
const TCSETS = 0x5402;
const TIOCSWINSZ = 0x5414;
const TIOCGPTN = 0x80045430;
const TIOCSPTLCK = 0x40045431;

/** More than the kernel's struct termios, whose first field are the input flags. */
const TERMIOS_BYTES = 64;
/**
 * Flags of termios(3) that a new terminal lacks: a break interrupts, any key resumes output
 * after Ctrl-S, a full line rings the bell, and erasing removes whole UTF-8 characters.
 */
const INPUT_FLAGS = 0o2 | 0o4000 | 0o20000 | 0o40000;

export interface TerminalWindow {
  readonly cols: number;
  readonly rows: number;
}

/** A new pseudo-terminal, pty(7). The caller owns the master. */
export interface Terminal {
  readonly masterFd: number;
  /** The device that programs open. */
  readonly path: string;
}

/** Makes a terminal; it belongs to the caller's effective account. Throws the system error. */
export function openTerminal(window: TerminalWindow): Terminal {
  const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
  const masterFd = openSync('/dev/ptmx', O_RDWR | O_NOCTTY | O_NONBLOCK);
  try {
    const number = Buffer.alloc(4);
    checked('ioctl(TIOCSPTLCK)', ioctl(masterFd, TIOCSPTLCK, number));
    checked('ioctl(TIOCGPTN)', ioctl(masterFd, TIOCGPTN, number));
    const termios = Buffer.alloc(TERMIOS_BYTES);
    checked('ioctl(TCGETS)', ioctl(masterFd, TCGETS, termios));
    termios.writeUInt32LE(termios.readUInt32LE() | INPUT_FLAGS);
    checked('ioctl(TCSETS)', ioctl(masterFd, TCSETS, termios));
    resizeTerminal(masterFd, window);
    return { masterFd, path: `/dev/pts/${number.readUInt32LE()}` };
  } catch (error) {
    closeSync(masterFd);
    throw error;
  }
}

/** Sets the size of the window, of which SIGWINCH notifies the programs in the terminal. */
export function resizeTerminal(masterFd: number, { cols, rows }: TerminalWindow): void {
  const size = Buffer.alloc(8);
  size.writeUInt16LE(rows, 0);
  size.writeUInt16LE(cols, 2);
  checked('ioctl(TIOCSWINSZ)', ioctl(masterFd, TIOCSWINSZ, size));
}
