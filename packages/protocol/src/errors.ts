import type { Code, ConnectError } from '@connectrpc/connect';
import { REMEDIES } from './remedies.ts';

interface ErrorEntry {
  /** Status of the HTTP response. */
  readonly http: number;
  /** Code of the RPC between control plane and host agent. */
  readonly connect: keyof typeof Code;
  /** What it means, as a phrase: docs/errors.md. */
  readonly meaning: string;
  /** What the reader can do about it; empty if the message is sufficient. */
  readonly remedy: string;
  /** When the same request may succeed, in seconds: the header `Retry-After`. */
  readonly retryAfterSec?: number;
}

/**
 * Every error that a user can get. The HTTP responses, the RPCs between our
 * processes, the SDK's classes, the CLI's output and docs/errors.md all use this table,
 * so that a code is stable and means the same everywhere.
 */
export const ERRORS = {
  invalid_request: {
    http: 400,
    connect: 'InvalidArgument',
    meaning:
      'a path, query, header or body that the API does not accept; `issues` names the fields',
    remedy: '',
  },
  unauthorized: {
    http: 401,
    connect: 'Unauthenticated',
    meaning: 'no API key or session, or one that is not valid',
    remedy:
      'Give a valid API key (TORPOR_API_KEY, or the header X-API-Key; `torpor env` prints the local one), or log in.',
  },
  forbidden: {
    http: 403,
    connect: 'PermissionDenied',
    meaning: 'the caller does not have the permission',
    remedy: '',
  },
  not_found: {
    http: 404,
    connect: 'NotFound',
    meaning: 'what the request names does not exist, or belongs to another team',
    remedy: '',
  },
  method_not_allowed: {
    http: 405,
    connect: 'Unimplemented',
    meaning: 'the path exists, but not with this method',
    remedy: '',
  },
  invalid_state: {
    http: 409,
    connect: 'FailedPrecondition',
    meaning: 'the resource is in a state that does not allow the operation',
    remedy: REMEDIES.retryInOtherState,
  },
  conflict: {
    http: 409,
    connect: 'Aborted',
    meaning: 'another operation changed or is changing the resource, or the client disconnected',
    remedy: '',
  },
  already_exists: {
    http: 409,
    connect: 'AlreadyExists',
    meaning: 'the name is taken',
    remedy: 'Choose another name.',
  },
  template_name_taken: {
    http: 409,
    connect: 'AlreadyExists',
    meaning: 'the team or the platform has a template of the name',
    remedy: 'Choose another name.',
  },
  name_reserved: {
    http: 409,
    connect: 'AlreadyExists',
    meaning: 'the name is that of an image',
    remedy: 'Choose another name.',
  },
  has_active_sandboxes: {
    http: 409,
    connect: 'FailedPrecondition',
    meaning: 'sandboxes or snapshots would be lost with the host',
    remedy: 'Destroy them first, or force the deletion, which gives them up.',
  },
  idempotency_key_reused: {
    http: 422,
    connect: 'InvalidArgument',
    meaning: 'the idempotency key was used for another request',
    remedy: 'Send each request with a key of its own.',
  },
  quota_exceeded: {
    http: 403,
    // Not ResourceExhausted, which E2B's clients report as a rate limit.
    connect: 'FailedPrecondition',
    meaning: 'the team, or the user, would have more than its quota allows',
    remedy: 'Remove what is not needed, or ask the operator of the platform for a larger quota.',
  },
  too_large: {
    http: 413,
    connect: 'InvalidArgument',
    meaning: 'a body, header or message is larger than the API reads',
    remedy: '',
  },
  capacity_exceeded: {
    http: 400,
    connect: 'InvalidArgument',
    meaning: 'no sandbox of this size can run on the host, even if it is idle',
    remedy: 'Request less; `torpor doctor` on the host shows what that machine has.',
  },
  no_hosts_available: {
    http: 503,
    connect: 'ResourceExhausted',
    meaning: 'no host has room for the sandbox now',
    remedy: 'Destroy or pause sandboxes that are not needed.',
    retryAfterSec: 10,
  },
  timeout: {
    http: 504,
    connect: 'DeadlineExceeded',
    meaning: 'something that was waited for did not happen in time',
    remedy: '',
  },
  rate_limited: {
    http: 429,
    connect: 'ResourceExhausted',
    meaning: 'too many attempts in a short time',
    remedy: 'Wait as long as the message says.',
    retryAfterSec: 60,
  },
  disk_full: {
    http: 507,
    connect: 'ResourceExhausted',
    meaning: 'the disk of the host is full',
    remedy: 'Free space on the file system of the data directory.',
  },
  program_not_found: {
    http: 400,
    connect: 'InvalidArgument',
    meaning: 'the program does not exist in the sandbox',
    remedy: 'Give the path of a program that exists in the sandbox.',
  },
  program_not_executable: {
    http: 400,
    connect: 'InvalidArgument',
    meaning: 'the file in the sandbox cannot be executed',
    remedy: 'Give the path of a program that this user of the sandbox may execute.',
  },
  sandbox_exhausted: {
    http: 503,
    // Not ResourceExhausted, which E2B's clients report as a rate limit.
    connect: 'FailedPrecondition',
    meaning: 'the sandbox has no memory or processes left',
    remedy: REMEDIES.killPrograms,
    retryAfterSec: 5,
  },
  sandbox_disk_full: {
    http: 507,
    connect: 'FailedPrecondition',
    meaning: 'the disk of the sandbox is full',
    remedy: 'Remove files in the sandbox, or create one with a larger disk.',
  },
  guest_failed: {
    http: 502,
    connect: 'Unknown',
    meaning: 'something failed in the sandbox',
    remedy: REMEDIES.readConsole,
  },
  host_unavailable: {
    http: 503,
    connect: 'Unavailable',
    meaning: 'the host of the sandbox, or the server, does not respond',
    remedy:
      'Start the host agent again (`torpor up` includes one); its sandboxes keep running until then.',
    retryAfterSec: 5,
  },
  provider_unavailable: {
    http: 502,
    connect: 'Unavailable',
    meaning: 'the service that a user logs in with does not respond as it should',
    remedy: 'Log in again in a while, or with a password.',
    retryAfterSec: 10,
  },
  database_unavailable: {
    http: 503,
    connect: 'Unavailable',
    meaning: 'the database does not respond',
    remedy: 'Try again in a few seconds. If the error persists, read the log of the server.',
    retryAfterSec: 5,
  },
  guest_unreachable: {
    http: 502,
    connect: 'Unavailable',
    meaning: 'the sandbox does not respond',
    remedy: REMEDIES.readConsoleOrDestroy,
  },
  init_failed: {
    http: 502,
    connect: 'Internal',
    meaning: 'the sandbox started, but its set-up failed',
    remedy:
      'Start it again: what it was started from is unchanged. If the message names a file of the sandbox, repair that in the original, or start from an older snapshot.',
  },
  vmm_failed: {
    http: 502,
    connect: 'Internal',
    meaning: 'the virtual machine monitor failed',
    remedy: REMEDIES.readConsoleOrCheckHost,
  },
  host_setup: {
    http: 500,
    connect: 'FailedPrecondition',
    meaning: 'the host lacks something that Torpor needs',
    remedy: 'Run `torpor doctor` on the host: it names what is missing and how to get it.',
  },
  build_invalid: {
    http: 500,
    connect: 'DataLoss',
    meaning: 'a stored build is damaged',
    remedy: REMEDIES.verifyBuilds,
  },
  not_implemented: {
    http: 501,
    connect: 'Unimplemented',
    meaning: 'this version does not have it',
    remedy: '',
  },
  internal_error: {
    http: 500,
    connect: 'Internal',
    meaning: 'a defect of Torpor',
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
  /** Replaces the time of the table. */
  readonly retryAfterSec?: number | undefined;
  /** The request that failed, as the log of the server names it. */
  readonly requestId?: string | undefined;
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
  /** Set by the SDK: the request that failed, as the log of the server names it. */
  readonly requestId: string | undefined;

  constructor(code: ErrorCode, message: string, options: TorporErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.remedy = options.remedy ?? ERRORS[code].remedy;
    this.issues = options.issues ?? [];
    const entry: ErrorEntry = ERRORS[code];
    this.retryAfterSec = options.retryAfterSec ?? entry.retryAfterSec;
    this.requestId = options.requestId;
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
