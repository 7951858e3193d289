import { type FieldIssue, rest, TorporError } from '@torpor/protocol';
import type { z } from 'zod';
import { bodyChunks } from './request-body.ts';

/** For a body of at most 1 MiB; a connection that sends less is not waited for. */
const JSON_BODY_TIMEOUT_MS = 30_000;
/** At most so many faults of a request are listed. */
const MAX_LISTED_ISSUES = 5;

/** Checks `value` against `schema`. Throws `invalid_request` with a sentence that names every field at fault. */
export function parseWith<S extends z.ZodType>(
  schema: S,
  value: unknown,
  where: string,
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.slice(0, MAX_LISTED_ISSUES).map(fieldIssue);
  const faults = issues.map(({ field, problem }) =>
    field === '' ? problem : `${field} ${problem}`,
  );
  throw new TorporError('invalid_request', `Invalid ${where}: ${faults.join('; ')}.`, { issues });
}

function fieldIssue(issue: z.core.$ZodIssue): FieldIssue {
  const path = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    const [name = '', ...others] = issue.keys.map((key) => key.slice(0, 100));
    const more = others.length === 0 ? '' : ` (nor ${others.slice(0, 9).join(', ')})`;
    return {
      field: [...path, name].join('.').slice(0, 200),
      problem: `is not a known field${more}`,
    };
  }
  return { field: path.join('.').slice(0, 200), problem: problemOf(issue) };
}

/** What is wrong with a field, in words that follow its name. Zod's own are about types. */
function problemOf(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'too_big':
      if (!/^Too big: /.test(issue.message)) return issue.message;
      return `must ${limit(issue.origin, 'at most', issue.maximum)}`;
    case 'too_small':
      if (!/^Too small: /.test(issue.message)) return issue.message;
      if (issue.minimum === 1 && issue.origin === 'string') return 'must not be empty';
      return `must ${limit(issue.origin, 'at least', issue.minimum)}`;
    case 'invalid_type':
      if (issue.input === undefined && /received undefined$/.test(issue.message))
        return 'is required';
      return `must be ${TYPE_NAMES[issue.expected] ?? issue.expected}`;
    case 'invalid_value':
      return `must be ${issue.values.length === 1 ? '' : 'one of '}${issue.values.join(', ')}`;
    case 'invalid_format':
      return /^must /.test(issue.message) ? issue.message : `must be in the format ${issue.format}`;
    case 'invalid_union':
      return 'has none of the possible forms';
    case 'invalid_key':
      return 'has a name that is not allowed';
    default:
      return issue.message.replace(/^Invalid input: /, '');
  }
}

function limit(origin: string, bound: string, value: number | bigint): string {
  if (origin === 'string') return `have ${bound} ${value} characters`;
  if (origin === 'array') return `have ${bound} ${value} items`;
  return `be ${bound} ${value}`;
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  int: 'a whole number',
  number: 'a number',
  string: 'a string',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
};

/** A query string as an object: a parameter that is given several times becomes an array. */
export function queryObject(queries: Record<string, string[]>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(queries).map(([name, values]) => [
      name,
      values.length === 1 ? values[0] : values,
    ]),
  );
}

/**
 * Reads a JSON body of at most {@link rest.MAX_JSON_BODY_BYTES}; no body counts as
 * `{}`. Throws `too_large` as soon as the limit is passed, `invalid_request` for what
 * is not JSON in UTF-8.
 */
export async function readJson(request: Request): Promise<unknown> {
  const bytes = await readLimited(request);
  if (bytes.length === 0) return {};
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new TorporError('invalid_request', 'The body is not valid JSON in UTF-8.', {
      cause: error,
    });
  }
}

async function readLimited(request: Request): Promise<Buffer> {
  const limit = rest.MAX_JSON_BODY_BYTES;
  const tooLarge = () =>
    new TorporError('too_large', `The body is larger than ${limit} bytes.`, {
      remedy: 'Send large content as a file: PUT /v1/sandboxes/{id}/files?path=….',
    });
  if (Number(request.headers.get('content-length') ?? 0) > limit) throw tooLarge();
  const late = AbortSignal.timeout(JSON_BODY_TIMEOUT_MS);
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of bodyChunks(request, AbortSignal.any([request.signal, late]))) {
      size += chunk.byteLength;
      if (size > limit) throw tooLarge();
      chunks.push(chunk);
    }
  } catch (error) {
    if (!late.aborted) throw error;
    throw new TorporError('timeout', 'The body of the request did not come in time.');
  }
  return Buffer.concat(chunks);
}
