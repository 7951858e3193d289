import type { ErrorCode, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';

/**
 * Codes with an HTTP status of 500 or more that a user causes alone: with a time limit of their
 * own, with what their programs do to their sandbox, or by destroying it meanwhile.
 */
const OUTCOMES_OF_REQUESTS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'timeout',
  'sandbox_exhausted',
  'sandbox_disk_full',
  'guest_failed',
  'guest_unreachable',
  'not_implemented',
]);

/**
 * Logs a request that failed: a fault of the server as an error with its stack. What users cause
 * has only its code, as the message may quote what they sent.
 */
export function logFailure(
  logger: Logger,
  fields: Readonly<Record<string, unknown>>,
  error: TorporError,
  event: string,
): void {
  const { code, httpStatus } = error;
  if (httpStatus < 500) logger.debug({ ...fields, code }, event);
  else if (OUTCOMES_OF_REQUESTS.has(code)) logger.info({ ...fields, code }, event);
  else logger.error({ ...fields, err: error }, event);
}
