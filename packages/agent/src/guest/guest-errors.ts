import { Code, ConnectError } from '@connectrpc/connect';
import {
  type ErrorCode,
  hostAgent,
  TorporError,
  type TorporErrorOptions,
  withFullStop,
} from '@torpor/protocol';

/** A call to the guest, for an error message. */
export interface GuestCall {
  readonly sandboxId: string;
  /** The account that the caller named, if any. */
  readonly user?: string | undefined;
}

const FROM_CONNECT: Partial<Record<Code, ErrorCode>> = {
  [Code.NotFound]: 'not_found',
  [Code.AlreadyExists]: 'already_exists',
  [Code.InvalidArgument]: 'invalid_request',
  [Code.OutOfRange]: 'invalid_request',
  [Code.FailedPrecondition]: 'invalid_request',
  [Code.PermissionDenied]: 'forbidden',
  [Code.DeadlineExceeded]: 'timeout',
  [Code.ResourceExhausted]: 'too_large',
  [Code.Unimplemented]: 'not_implemented',
  [Code.Unavailable]: 'guest_unreachable',
  [Code.Aborted]: 'guest_unreachable',
  // Cancelled by a caller that has disconnected; an abort of our own has its reason.
  [Code.Canceled]: 'conflict',
};

/** Codes of our table that envd may return; the guest is not trusted with those about the host. */
const NAMED_BY_ENVD: ReadonlySet<string> = new Set<ErrorCode>([
  'program_not_found',
  'program_not_executable',
  'sandbox_exhausted',
  'sandbox_disk_full',
  'too_large',
  'invalid_request',
  'forbidden',
  'not_found',
  'already_exists',
  'conflict',
]);

const FROM_HTTP: Readonly<Record<number, ErrorCode>> = {
  400: 'invalid_request',
  403: 'forbidden',
  404: 'not_found',
  406: 'invalid_request',
  409: 'already_exists',
  413: 'too_large',
  416: 'invalid_request',
  503: 'sandbox_exhausted',
  507: 'sandbox_disk_full',
};

/** The remedy where a guest exceeded a time limit of its start. */
export const GUEST_TIMEOUT_REMEDY =
  'If this host is slow or loaded, give guests more time: `torpor up --guest-timeout 10m`, or set TORPOR_GUEST_TIMEOUT.';

const GUEST_REMEDIES: Partial<Record<ErrorCode, string>> = {
  already_exists: '',
  timeout: 'The guest did not respond in time; it may be overloaded.',
};

/**
 * The TorporError for a failed call to envd: errors of envd keep their meaning and message,
 * others (an input/output error of the sandbox's disk) are `guest_failed`, a broken or refused
 * connection is `guest_unreachable`. An abort whose reason is a TorporError is that error.
 */
export function fromGuest(reason: unknown, call: GuestCall): TorporError {
  if (reason instanceof TorporError) return reason;
  if (!(reason instanceof ConnectError)) return unreachable(reason, call);
  if (reason.cause instanceof TorporError) return reason.cause;
  if (reason.code === Code.Unauthenticated) return refused(reason, call);
  const named = TorporError.from(reason);
  if (isNamed(reason) && NAMED_BY_ENVD.has(named.code)) {
    return guestError(named.code, reason.rawMessage, reason, named);
  }
  const code = FROM_CONNECT[reason.code];
  if (code === 'guest_unreachable') return unreachable(reason, call);
  if (code === undefined && isBrokenConnection(reason)) return unreachable(reason, call);
  return guestError(code ?? 'guest_failed', reason.rawMessage, reason);
}

/** The TorporError for an HTTP response of envd with an error status; `body` as it was received. */
export function fromGuestStatus(status: number, body: string, call: GuestCall): TorporError {
  const message = messageOf(body) ?? `The guest returned status ${status}.`;
  if (status === 401) return refused(new Error(message), call);
  return guestError(FROM_HTTP[status] ?? 'guest_failed', message, undefined);
}

/** The error for a failed `/init`: envd's message names the step. */
export function initError(reason: unknown, sandboxId: string): unknown {
  if (!(reason instanceof TorporError) || reason.code !== 'guest_failed') return reason;
  return new TorporError(
    'init_failed',
    `The guest could not be initialised as sandbox ${sandboxId}: ${reason.message}`,
    { cause: reason },
  );
}

function isNamed(error: ConnectError): boolean {
  return error.findDetails(hostAgent.ErrorDetailSchema).length > 0;
}

function guestError(
  code: ErrorCode,
  message: string,
  cause: unknown,
  {
    remedy = GUEST_REMEDIES[code],
    issues = [],
  }: Pick<TorporErrorOptions, 'remedy' | 'issues'> = {},
): TorporError {
  // The message then begins with the name of a field.
  const sentence =
    issues.length === 0 ? asSentence(message) : `Invalid request: ${withFullStop(message)}`;
  return new TorporError(code, sentence, {
    ...(remedy === undefined ? {} : { remedy }),
    ...(cause === undefined ? {} : { cause }),
    issues,
  });
}

/** Messages of E2B's protocol are phrases (`path '/x' does not exist`); ours are sentences. */
function asSentence(phrase: string): string {
  return withFullStop(`${phrase.charAt(0).toUpperCase()}${phrase.slice(1)}`);
}

/** envd returns this for a user that does not exist, and for a wrong token. */
function refused(cause: Error, call: GuestCall): TorporError {
  const message = cause instanceof ConnectError ? cause.rawMessage : cause.message;
  const user = /invalid username: '(.*)'$/.exec(message)?.[1] || call.user;
  if (user !== undefined) {
    return new TorporError(
      'invalid_request',
      `There is no user ${JSON.stringify(user)} in the sandbox.`,
      { remedy: 'Name another account, such as root, or add it to /etc/passwd.', cause },
    );
  }
  return new TorporError(
    'guest_unreachable',
    `The guest of sandbox ${call.sandboxId} does not accept the host agent's access token.`,
    { cause },
  );
}

function unreachable(cause: unknown, call: GuestCall): TorporError {
  const why = cause instanceof ConnectError ? cause.rawMessage : String(cause);
  return new TorporError(
    'guest_unreachable',
    `The guest of sandbox ${call.sandboxId} cannot be reached: ${withFullStop(why)}`,
    { cause },
  );
}

/** connect-node has no code of its own for most socket errors; they are in the cause. */
function isBrokenConnection(error: ConnectError): boolean {
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    if (
      'syscall' in cause ||
      ('code' in cause && /^(E[A-Z]+|UND_ERR_.*)$/.test(String(cause.code)))
    )
      return true;
  }
  return false;
}

function messageOf(body: string): string | undefined {
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === 'object' && parsed !== null && 'message' in parsed)
      return String(parsed.message);
  } catch {
    // Not JSON: only the status is known.
  }
  return undefined;
}
