/** The standard signals of Linux on x86-64, signal(7), independent of the client's machine. */
const SIGNAL_NUMBERS = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGSTKFLT: 16,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGWINCH: 28,
  SIGIO: 29,
  SIGPWR: 30,
  SIGSYS: 31,
} as const;

export type SignalName = keyof typeof SIGNAL_NUMBERS;

export const SIGNAL_NAMES: readonly string[] = Object.keys(SIGNAL_NUMBERS);

const ALIASES: Readonly<Record<string, number>> = { SIGIOT: 6, SIGCLD: 17, SIGPOLL: 29 };
/** glibc keeps 32 and 33 for itself. */
const FIRST_REAL_TIME = 34;
const LAST_SIGNAL = 64;

/**
 * The number of a signal as kill(1) takes it: `SIGINT`, `INT` in any case, `2`, `RTMIN+3`,
 * `RTMAX-1`. Undefined for anything else.
 */
export function signalNumber(text: string): number | undefined {
  if (/^\d{1,3}$/.test(text)) return inRange(Number(text), 1);
  const name = `SIG${text.toUpperCase().replace(/^SIG/, '')}`;
  const realTime = /^SIGRT(?:(MIN)(?:\+(\d{1,2}))?|(MAX)(?:-(\d{1,2}))?)$/.exec(name);
  if (realTime !== null) {
    const [, minimum, above, , below] = realTime;
    const number =
      minimum === undefined
        ? LAST_SIGNAL - Number(below ?? 0)
        : FIRST_REAL_TIME + Number(above ?? 0);
    return inRange(number, FIRST_REAL_TIME);
  }
  const known: Readonly<Record<string, number>> = { ...ALIASES, ...SIGNAL_NUMBERS };
  return Object.hasOwn(known, name) ? known[name] : undefined;
}

/** Their names in Go's syscall.Signal: E2B's envd reports `signal: killed`. */
const STATUS_NAMES: Readonly<Record<SignalName, string>> = {
  SIGHUP: 'hangup',
  SIGINT: 'interrupt',
  SIGQUIT: 'quit',
  SIGILL: 'illegal instruction',
  SIGTRAP: 'trace/breakpoint trap',
  SIGABRT: 'aborted',
  SIGBUS: 'bus error',
  SIGFPE: 'floating point exception',
  SIGKILL: 'killed',
  SIGUSR1: 'user defined signal 1',
  SIGSEGV: 'segmentation fault',
  SIGUSR2: 'user defined signal 2',
  SIGPIPE: 'broken pipe',
  SIGALRM: 'alarm clock',
  SIGTERM: 'terminated',
  SIGSTKFLT: 'stack fault',
  SIGCHLD: 'child exited',
  SIGCONT: 'continued',
  SIGSTOP: 'stopped (signal)',
  SIGTSTP: 'stopped',
  SIGTTIN: 'stopped (tty input)',
  SIGTTOU: 'stopped (tty output)',
  SIGURG: 'urgent I/O condition',
  SIGXCPU: 'CPU time limit exceeded',
  SIGXFSZ: 'file size limit exceeded',
  SIGVTALRM: 'virtual timer expired',
  SIGPROF: 'profiling timer expired',
  SIGWINCH: 'window changed',
  SIGIO: 'I/O possible',
  SIGPWR: 'power failure',
  SIGSYS: 'bad system call',
};

/** The status of a process that a signal terminated: `signal: killed`. */
export function signalStatus(name: string): string {
  const names: Readonly<Record<string, string>> = STATUS_NAMES;
  return `signal: ${names[name] ?? name.toLowerCase()}`;
}

/** The number of the signal in a status: with Go's name, or as `signal: SIGKILL`. */
export function signalOfStatus(status: string): number | undefined {
  const word = /^signal: ([^\n:]+?)(?: \(core dumped\))?(?:: out of memory)?$/.exec(status)?.[1];
  if (word === undefined) return undefined;
  const name = Object.entries(STATUS_NAMES).find(([, text]) => text === word)?.[0];
  return signalNumber(name ?? word);
}

function inRange(number: number, first: number): number | undefined {
  return number >= first && number <= LAST_SIGNAL ? number : undefined;
}
