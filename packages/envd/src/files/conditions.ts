import type { IncomingHttpHeaders } from 'node:http';

/** What tells one state of a file from another. */
export interface Validators {
  readonly etag: string;
  /** Milliseconds since 1970. */
  readonly modifiedMs: number;
}

/**
 * What the conditional headers of a request for a file demand, in the order of RFC
 * 9110, section 13.2.2: send it, 304 (the client has it) or 412 (it is not the one meant).
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

/** Whether `If-Range` lets the `Range` header count: the file is still the one it began with. */
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

/** Undefined without a date that can be read. HTTP dates have whole seconds. */
function isAfter(validators: Validators, header: string | undefined): boolean | undefined {
  const date = Date.parse(header ?? '');
  return Number.isNaN(date) ? undefined : toSeconds(validators.modifiedMs) > date;
}

function toSeconds(milliseconds: number): number {
  return Math.floor(milliseconds / 1000) * 1000;
}
