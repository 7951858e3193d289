import type { Code, ConnectError } from '@connectrpc/connect';
import { REMEDIES } from './remedies.ts';

interface ErrorEntry {
  /** Status of the HTTP response. */
  readonly http: number;
  /** Code of the RPC between control plane and host agent. */
  readonly connect: keyof typeof Code;
  /** What the reader can do about it; empty if the message is sufficient. */
  readonly remedy: string;
}

/**
 * Every error that a user can get. The HTTP responses, the RPCs between our
 * processes, the SDK's classes and the CLI's output all use this table, so that
 * a code is stable and means the same everywhere.
 */
export const ERRORS = {
  invalid_request: { http: 400, connect: 'InvalidArgument', remedy: '' },
  unauthorized: {
    http: 401,
    connect: 'Unauthenticated',
    remedy:
      'Give a valid API key (TORPOR_API_KEY, or the header X-API-Key; `torpor env` prints the local one), or log in.',
  },
  forbidden: { http: 403, connect: 'PermissionDenied', remedy: '' },
  not_found: { http: 404, connect: 'NotFound', remedy: '' },
  method_not_allowed: { http: 405, connect: 'Unimplemented', remedy: '' },
  invalid_state: {
    http: 409,
    connect: 'FailedPrecondition',
    remedy: REMEDIES.retryInOtherState,
  },
  conflict: { http: 409, connect: 'Aborted', remedy: '' },
  already_exists: {
    http: 409,
    connect: 'AlreadyExists',
    remedy: 'Choose another name.',
  },
  name_reserved: {
    http: 409,
    connect: 'AlreadyExists',
    remedy: 'Choose another name.',
  },
  has_active_sandboxes: {
    http: 409,
    connect: 'FailedPrecondition',
    remedy: 'Destroy them first, or force the deletion, which gives them up.',
  },
  too_large: { http: 413, connect: 'InvalidArgument', remedy: '' },
  capacity_exceeded: {
    http: 400,
    connect: 'InvalidArgument',
    remedy: 'Request less; `torpor doctor` on the host shows what that machine has.',
  },
  no_hosts_available: {
    http: 503,
    connect: 'ResourceExhausted',
    remedy: 'Destroy or pause sandboxes that are not needed.',
  },
  rate_limited: {
    http: 429,
    connect: 'ResourceExhausted',
    remedy: 'Wait as long as the message says.',
  },
  timeout: { http: 504, connect: 'DeadlineExceeded', remedy: '' },
  disk_full: {
    http: 507,
    connect: 'ResourceExhausted',
    remedy: 'Free space on the file system of the data directory.',
  },
  program_not_found: {
    http: 400,
    connect: 'InvalidArgument',
    remedy: 'Give the path of a program that exists in the sandbox.',
  },
  program_not_executable: {
    http: 400,
    connect: 'InvalidArgument',
    remedy: 'Give the path of a program that this user of the sandbox may execute.',
  },
  sandbox_exhausted: {
    http: 503,
    // Not ResourceExhausted, which E2B's clients report as a rate limit.
    connect: 'FailedPrecondition',
    remedy: REMEDIES.killPrograms,
  },
  sandbox_disk_full: {
    http: 507,
    connect: 'FailedPrecondition',
    remedy: 'Remove files in the sandbox, or create one with a larger disk.',
  },
  guest_failed: {
    http: 502,
    connect: 'Unknown',
    remedy: REMEDIES.readConsole,
  },
  host_unavailable: {
    http: 503,
    connect: 'Unavailable',
    remedy:
      'Start the host agent again (`torpor up` includes one); its sandboxes keep running until then.',
  },
  database_unavailable: {
    http: 503,
    connect: 'Unavailable',
    remedy: 'Try again in a few seconds. If the error persists, read the log of the server.',
  },
  guest_unreachable: {
    http: 502,
    connect: 'Unavailable',
    remedy: REMEDIES.readConsoleOrDestroy,
  },
  init_failed: {
    http: 502,
    connect: 'Internal',
    remedy:
      'Start it again: what it was started from is unchanged. If the message names a file of the sandbox, repair that in the original, or start from an older snapshot.',
  },
  vmm_failed: {
    http: 502,
    connect: 'Internal',
    remedy: REMEDIES.readConsoleOrCheckHost,
  },
  host_setup: {
    http: 500,
    connect: 'FailedPrecondition',
    remedy: 'Run `torpor doctor` on the host: it names what is missing and how to get it.',
  },
  build_invalid: {
    http: 500,
    connect: 'DataLoss',
    remedy: REMEDIES.verifyBuilds,
  },
  not_implemented: { http: 501, connect: 'Unimplemented', remedy: '' },
  internal_error: {
    http: 500,
    connect: 'Internal',
    remedy: 'This is a bug in Torpor; the log of the server has the details.',
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

export function isErrorCode(value: string): value is ErrorCode {
  return Object.hasOwn(ERRORS, value);
}

/** An invalid field of a request. */
export interface FieldIssue {
  /** The path of the field: `memory_mb`, `args.3`, `envs.PATH`. */
  readonly field: string;
  /** What is wrong, as a phrase that follows the name of the field: `must be at least 128`. */
  readonly problem: string;
}

export interface TorporErrorOptions {
  /** Replaces the remedy of the table with a more specific one. */
  readonly remedy?: string;
  readonly cause?: unknown;
  /** The fields that an `invalid_request` is about; the message names them too. */
  readonly issues?: readonly FieldIssue[] | undefined;
  /** When the same request may succeed, in seconds. */
  readonly retryAfterSec?: number | undefined;
}

/**
 * The one error class of all packages. `message` is a sentence that says what
 * happened, `code` a stable name of {@link ERRORS}, `remedy` what to do.
 */
export class TorporError extends Error {
  override readonly name = 'TorporError';
  readonly code: ErrorCode;
  readonly remedy: string;
  readonly issues: readonly FieldIssue[];
  /** When the same request may succeed, in seconds; undefined if waiting does not help. */
  readonly retryAfterSec: number | undefined;

  constructor(code: ErrorCode, message: string, options: TorporErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.remedy = options.remedy ?? ERRORS[code].remedy;
    this.issues = options.issues ?? [];
    this.retryAfterSec = options.retryAfterSec;
  }

  get httpStatus(): number {
    return ERRORS[this.code].http;
  }

  /**
   * The TorporError for anything that was thrown:
   * - a TorporError is returned as it is;
   * - a ConnectError with our detail becomes the error of the other side;
   * - another ConnectError becomes the entry for its code;
   * - ENOSPC and EDQUOT become `disk_full`: this machine's disk, not a sandbox's;
   * - EMFILE, ENFILE and EROFS become `host_setup`;
   * - everything else becomes `internal_error`, with the reason as its cause.
   */
  static from(reason: unknown): TorporError {
    if (reason instanceof TorporError) return reason;
    const received = rpcErrors?.decode(reason);
    if (received !== undefined) return received;
    const message = reason instanceof Error ? reason.message : String(reason);
    const fault = isErrnoException(reason) ? HOST_FAULTS[reason.code ?? ''] : undefined;
    if (fault !== undefined) {
      const { code, what, remedy } = fault;
      return new TorporError(code, `${what}: ${message}`, {
        ...(remedy === undefined ? {} : { remedy }),
        cause: reason,
      });
    }
    return new TorporError('internal_error', message, { cause: reason });
  }

  /** Encodes this error for RPCs between our processes. */
  toConnectError(): ConnectError {
    if (rpcErrors === undefined) throw new Error('A client of the REST API makes no RPC errors.');
    return rpcErrors.encode(this);
  }
}

/** The encoding of errors in RPCs between our processes. */
interface RpcErrors {
  encode(error: TorporError): ConnectError;
  /** Undefined for anything but an error of an RPC. */
  decode(reason: unknown): TorporError | undefined;
}

let rpcErrors: RpcErrors | undefined;

/**
 * Called by rpc-errors.ts when it is loaded. That is a separate file because the RPC library
 * takes longer to load than the whole CLI, and clients of the REST API do not need it.
 */
export function installRpcErrors(installed: RpcErrors): void {
  rpcErrors = installed;
}

interface HostFault {
  readonly code: ErrorCode;
  readonly what: string;
  readonly remedy?: string;
}

const DISK_FULL: HostFault = { code: 'disk_full', what: 'The disk is full' };
const NO_DESCRIPTORS: HostFault = {
  code: 'host_setup',
  what: 'This machine has no file descriptors left',
  remedy: 'Raise the limit of open files (`ulimit -n`, LimitNOFILE= of systemd, fs.file-max).',
};

/** Errors of system calls that are caused by the state of the machine, not by a bug. */
const HOST_FAULTS: Readonly<Record<string, HostFault>> = {
  ENOSPC: DISK_FULL,
  EDQUOT: DISK_FULL,
  EMFILE: NO_DESCRIPTORS,
  ENFILE: NO_DESCRIPTORS,
  EROFS: {
    code: 'host_setup',
    what: 'A file system is read-only',
    remedy: '`dmesg` says why; mount it read-write again.',
  },
};

function isErrnoException(reason: unknown): reason is NodeJS.ErrnoException {
  return reason instanceof Error && 'code' in reason && typeof reason.code === 'string';
}
