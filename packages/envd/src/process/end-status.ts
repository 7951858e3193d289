import type { ProcessEnd } from './output-hub.ts';

/** The words of Go's syscall.Signal, which E2B's clients see. */
const SIGNAL_WORDS: Partial<Record<NodeJS.Signals, string>> = {
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
};

export function endByStatus(exitCode: number): ProcessEnd {
  const status = `exit status ${exitCode}`;
  return {
    exitCode,
    exited: true,
    status,
    error: exitCode === 0 ? undefined : status,
  };
}

export function endBySignal(signal: NodeJS.Signals): ProcessEnd {
  const status = `signal: ${SIGNAL_WORDS[signal] ?? signal.toLowerCase()}`;
  return { exitCode: -1, exited: false, status, error: status };
}
