import type { IncomingHttpHeaders } from 'node:http';

/** Validators that distinguish versions of a file. */
export interface Validators {
  readonly etag: string;
  /** Milliseconds since 1970. */
  readonly modifiedMs: number;
}

/**
 * Evaluates the conditional headers of a request for a file, in the order of RFC 9110, section
 * 13.2.2: send it, 304 (the client has it) or 412 (it has changed).
 */
export function evaluateConditions(
  headers: IncomingHttpHeaders,
  validators: Validators,
): 'send' | 'not modified' | 'precondition failed' {
  const ifMatch = headers['if-match'];
  if (ifMatch !== undefined) {
    if (!listsTag(ifMatch, validators.etag, 'strong')) return 'precondition failed';
  } else if (isAfter(validators, headers['if-unmodified-since']) === true) {
    return 'precondition failed';
  }
  const ifNoneMatch = headers['if-none-match'];
  if (ifNoneMatch !== undefined) {
    return listsTag(ifNoneMatch, validators.etag, 'weak') ? 'not modified' : 'send';
  }
  return isAfter(validators, headers['if-modified-since']) === false ? 'not modified' : 'send';
}

/** Whether `If-Range` permits the `Range` header: the file has not changed. */
export function rangeStillMeant(headers: IncomingHttpHeaders, validators: Validators): boolean {
  const condition = headers['if-range'];
  if (typeof condition !== 'string') return true;
  if (condition.startsWith('"') || condition.startsWith('W/')) return condition === validators.etag;
  return Date.parse(condition) === toSeconds(validators.modifiedMs);
}

function listsTag(header: string, etag: string, comparison: 'strong' | 'weak'): boolean {
  return header.split(',').some((item) => {
    const tag = item.trim();
    return tag === '*' || (comparison === 'weak' ? tag.replace(/^W\//, '') : tag) === etag;
  });
}

/** Undefined without a valid date. HTTP dates have whole seconds. */
function isAfter(validators: Validators, header: string | undefined): boolean | undefined {
  const date = Date.parse(header ?? '');
  return Number.isNaN(date) ? undefined : toSeconds(validators.modifiedMs) > date;
}

function toSeconds(milliseconds: number): number {
  return Math.floor(milliseconds / 1000) * 1000;
}
