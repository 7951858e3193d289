import { checked, libc } from './libc.ts';

/** The credentials of a process; credentials(7). */
export interface Credentials {
  readonly uid: number;
  readonly gid: number;
  /** All supplementary groups. */
  readonly groups: readonly number[];
}

/** Numbers of syscalls(2); they differ between architectures. */
const SYSCALLS: Partial<
  Record<NodeJS.Architecture, { setgroups: number; setresgid: number; setresuid: number }>
> = {
  x64: { setgroups: 116, setresuid: 117, setresgid: 119 },
  arm64: { setgroups: 159, setresuid: 147, setresgid: 149 },
};

const threadIds = libc.func(
  'long syscall(long number, uint32_t real, uint32_t effective, uint32_t saved)',
);
const threadGroups = libc.func('long syscall(long number, size_t count, const uint32_t *groups)');
const processSetresuid = libc.func('int setresuid(uint32_t, uint32_t, uint32_t)');
const processSetresgid = libc.func('int setresgid(uint32_t, uint32_t, uint32_t)');
const processSetgroups = libc.func('int setgroups(size_t, const uint32_t *)');

/**
 * Runs `action` with the credentials of another account, so that a process which
 * it forks has them from its first instruction: no helper program is needed in the
 * guest's image, the child's directory is entered with the account's own rights, and pipes
 * made meanwhile belong to the account. Only for root; `action` must be synchronous.
 *
 * Why this is safe: to the kernel, credentials belong to a thread, and the raw system calls
 * (unlike glibc's functions of these names) change the calling thread alone. It keeps 0 as its
 * saved uid and restores everything before any other code of the daemon runs in it. A child
 * loses the saved uid at execve(2). A thread that `action` starts inherits the credentials;
 * glibc's functions, called last, give every thread of the process root's back.
 *
 * If restoring them fails, the process can no longer be trusted and is aborted.
 */
export function withCredentials<T>(credentials: Credentials, action: () => T): T {
  const numbers = SYSCALLS[process.arch];
  if (numbers === undefined) {
    throw new Error(`system call numbers are unknown for ${process.arch}`);
  }
  const own = process.getgroups?.() ?? [];
  const { uid, gid, groups } = credentials;
  try {
    checked('setgroups', threadGroups(numbers.setgroups, groups.length, Uint32Array.from(groups)));
    checked('setresgid', threadIds(numbers.setresgid, gid, gid, 0));
    checked('setresuid', threadIds(numbers.setresuid, uid, uid, 0));
    return action();
  } finally {
    const failed =
      threadIds(numbers.setresuid, 0, 0, 0) < 0 ||
      processSetresuid(0, 0, 0) < 0 ||
      processSetresgid(0, 0, 0) < 0 ||
      processSetgroups(own.length, Uint32Array.from(own)) < 0;
    if (failed) process.abort();
  }
}
