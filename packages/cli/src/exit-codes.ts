import type { ExitStatus } from '@torpor/sdk';
import {
  type ErrorCode,
  type SignalName,
  signalNumber,
  signalOfStatus,
  type TorporError,
} from '@torpor/sdk/basics';

/**
 * The exit statuses of `torpor`. `exec`, `run` and `shell` exit with the status of
 * the program in the sandbox, or with `usage` or one of the last four if there is
 * none; the other commands use the first ones.
 */
export const EXIT = {
  ok: 0,
  failure: 1,
  /** The command line is wrong. */
  usage: 2,
  notFound: 3,
  /** The API key is missing or wrong, or may not do this. */
  unauthorized: 4,
  /** The state of the resource does not allow it, or its name is in use. */
  conflict: 5,
  /** No response from the API or its database, or none of its hosts has capacity. */
  unavailable: 6,
  timeout: 7,
  /** This machine lacks something; see `torpor doctor`. */
  hostSetup: 8,
  /** `exec`, `run`: the program was killed because its timeout expired, as with timeout(1). */
  programTimeout: 124,
  /** `exec`, `run`, `shell`: Torpor failed, not the program. */
  torporFailed: 125,
  /** `exec`, `run`, `shell`: the program exists, but cannot be executed. */
  programNotExecutable: 126,
  /** `exec`, `run`, `shell`: there is no such program. */
  programNotFound: 127,
} as const;

const EXIT_OF_ERROR: Partial<Record<ErrorCode, number>> = {
  invalid_request: EXIT.usage,
  capacity_exceeded: EXIT.usage,
  not_found: EXIT.notFound,
  unauthorized: EXIT.unauthorized,
  forbidden: EXIT.unauthorized,
  invalid_state: EXIT.conflict,
  conflict: EXIT.conflict,
  already_exists: EXIT.conflict,
  name_reserved: EXIT.conflict,
  template_name_taken: EXIT.conflict,
  has_active_sandboxes: EXIT.conflict,
  no_hosts_available: EXIT.unavailable,
  host_unavailable: EXIT.unavailable,
  database_unavailable: EXIT.unavailable,
  timeout: EXIT.timeout,
  host_setup: EXIT.hostSetup,
};

export function exitCodeOfError(error: TorporError): number {
  return EXIT_OF_ERROR[error.code] ?? EXIT.failure;
}

const EXIT_OF_PROGRAM_ERROR: Partial<Record<ErrorCode, number>> = {
  invalid_request: EXIT.usage,
  capacity_exceeded: EXIT.usage,
  program_not_found: EXIT.programNotFound,
  program_not_executable: EXIT.programNotExecutable,
  timeout: EXIT.programTimeout,
};

/** For the commands that exit with the status of a program. */
export function exitCodeOfProgramError(error: TorporError): number {
  return EXIT_OF_PROGRAM_ERROR[error.code] ?? EXIT.torporFailed;
}

/** A signal's number as a shell reports it: 128 + n. */
const SIGNAL_EXIT_BASE = 128;

/** The exit status after a signal. */
export function exitCodeOfSignal(signal: SignalName): number {
  return SIGNAL_EXIT_BASE + (signalNumber(signal) ?? 0);
}

/** The exit status for that of a program. */
export function exitCodeOfProgram({ exitCode, error }: ExitStatus): number {
  if (exitCode > 0 && exitCode <= 255) return exitCode;
  const number = signalOfStatus(error ?? '');
  if (number !== undefined) return SIGNAL_EXIT_BASE + number;
  return exitCode === 0 && error === undefined ? EXIT.ok : EXIT.failure;
}
