import { checked, libc } from './libc.ts';

const pipe2 = libc.func('int pipe2(_Out_ int *fds, int flags)');
const fcntl = libc.func('int fcntl(int fd, int command, int argument)');

export interface Pipe {
  readonly readFd: number;
  readonly writeFd: number;
}

const O_CLOEXEC = 0o2000000;

/**
 * A pipe whose two ends are closed on exec; pipe(7). The caller owns both. A
 * child process with a real pipe can open /dev/stdout again, which it cannot with
 * the socket pairs that Node makes.
 */
export function createPipe(): Pipe {
  const fds = [-1, -1];
  checked('pipe2', pipe2(fds, O_CLOEXEC));
  const [readFd = -1, writeFd = -1] = fds;
  return { readFd, writeFd };
}

const F_SETPIPE_SZ = 1031;
/** What any user may have; /proc/sys/fs/pipe-max-size. */
const PIPE_BYTES = 1024 * 1024;

/** Enlarges the buffer of a pipe, for fewer switches between its ends. Does nothing to what is not a pipe. */
export function widenPipe(fd: number): void {
  fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES);
}
