import koffi from 'koffi';
import { libc, SystemError } from './libc.ts';
import { exitFromStatus, type ProcessExit } from './pidfd.ts';

const attrInit = libc.func('int posix_spawnattr_init(void *attributes)');
const attrSetFlags = libc.func('int posix_spawnattr_setflags(void *attributes, short flags)');
const attrSetDefault = libc.func('int posix_spawnattr_setsigdefault(void *attributes, void *set)');
const attrSetMask = libc.func('int posix_spawnattr_setsigmask(void *attributes, void *set)');
const attrDestroy = libc.func('int posix_spawnattr_destroy(void *attributes)');
const actionsInit = libc.func('int posix_spawn_file_actions_init(void *actions)');
const actionsDestroy = libc.func('int posix_spawn_file_actions_destroy(void *actions)');
const addOpen = libc.func(
  'int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, unsigned int mode)',
);
const addDup2 = libc.func('int posix_spawn_file_actions_adddup2(void *actions, int from, int to)');
const addChdir = libc.func(
  'int posix_spawn_file_actions_addchdir_np(void *actions, const char *path)',
);
const posixSpawn = libc.func(
  'int posix_spawn(_Out_ int *pid, const char *path, void *actions, void *attributes, void *argv, void *envp)',
);
const sigfillset = libc.func('int sigfillset(void *set)');
const waitpid = libc.func('int waitpid(int pid, _Out_ int *status, int options)');

// spawn.h
const POSIX_SPAWN_SETSIGDEF = 0x04;
const POSIX_SPAWN_SETSIGMASK = 0x08;
const POSIX_SPAWN_SETSID = 0x80;
/** More than glibc's posix_spawnattr_t and posix_spawn_file_actions_t take. */
const OPAQUE_BYTES = 512;
const SIGSET_BYTES = 128;
const WNOHANG = 1;
const O_RDWR = 2;

export interface TerminalProgram {
  /** Path of the program; there is no search. */
  readonly path: string;
  /** Starts with `argv[0]`. */
  readonly argv: readonly string[];
  /** Of the form `NAME=value`. */
  readonly env: readonly string[];
  readonly cwd: string;
  /** The device that becomes its standard streams and its controlling terminal. */
  readonly terminal: string;
}

/**
 * Starts a program in a session of its own on a terminal, with all signals as by default;
 * returns its pid. Unlike after forkpty(3), a failed execve(2) is known: throws the
 * SystemError of it, or of entering the directory, and then there is no process.
 *
 * `onExit` is called once, from the event loop. Only for the main thread: others get no
 * SIGCHLD in Node.
 */
export function spawnOnTerminal(
  program: TerminalProgram,
  onExit: (exit: ProcessExit) => void,
): number {
  const attributes = Buffer.alloc(OPAQUE_BYTES);
  const actions = Buffer.alloc(OPAQUE_BYTES);
  succeed('posix_spawnattr_init', attrInit(attributes));
  succeed('posix_spawn_file_actions_init', actionsInit(actions));
  try {
    resetSignals(attributes);
    // glibc makes the session first; the first terminal that its leader opens is its own.
    succeed('addopen', addOpen(actions, 0, program.terminal, O_RDWR, 0));
    succeed('adddup2', addDup2(actions, 0, 1));
    succeed('adddup2', addDup2(actions, 0, 2));
    succeed('addchdir_np', addChdir(actions, program.cwd));
    const argv = new StringVector(program.argv);
    const envp = new StringVector(program.env);
    const pid = [0];
    succeed(
      'posix_spawn',
      posixSpawn(pid, program.path, actions, attributes, argv.pointers, envp.pointers),
    );
    return reapLater(pid[0] ?? 0, onExit);
  } finally {
    actionsDestroy(actions);
    attrDestroy(attributes);
  }
}

/** Node ignores SIGPIPE, and may block signals; programs expect neither. */
function resetSignals(attributes: Buffer): void {
  const all = Buffer.alloc(SIGSET_BYTES);
  sigfillset(all);
  succeed('setsigdefault', attrSetDefault(attributes, all));
  succeed('setsigmask', attrSetMask(attributes, Buffer.alloc(SIGSET_BYTES)));
  const flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID;
  succeed('setflags', attrSetFlags(attributes, flags));
}

/** These functions return the errno. */
function succeed(call: string, errno: number): void {
  if (errno !== 0) throw new SystemError(call, errno);
}

/** A NULL-terminated array of C strings, as execve(2) takes it; valid as long as this object. */
class StringVector {
  readonly pointers: Buffer;
  readonly #text: Buffer;

  constructor(strings: readonly string[]) {
    this.#text = Buffer.from(strings.map((string) => `${string}\0`).join(''));
    this.pointers = Buffer.alloc((strings.length + 1) * 8);
    let address = strings.length === 0 ? 0n : koffi.address(this.#text);
    for (const [index, string] of strings.entries()) {
      this.pointers.writeBigUInt64LE(address, index * 8);
      address += BigInt(Buffer.byteLength(string) + 1);
    }
  }
}

const running = new Map<number, (exit: ProcessExit) => void>();

function reapLater(pid: number, onExit: (exit: ProcessExit) => void): number {
  if (running.size === 0) process.on('SIGCHLD', reap);
  running.set(pid, onExit);
  // It may have exited before the listener was added.
  setImmediate(reap);
  return pid;
}

/** libuv waits for its own children only, by their pids, as we do. */
function reap(): void {
  for (const [pid, onExit] of running) {
    const status = [0];
    if (waitpid(pid, status, WNOHANG) !== pid) continue;
    running.delete(pid);
    onExit(exitFromStatus(status[0] ?? 0));
  }
  if (running.size === 0) process.off('SIGCHLD', reap);
}
