import { type FieldIssue, TorporError } from '@torpor/protocol';
import type { z } from 'zod';
import { fieldName, textIssue } from './text.ts';

/** At most this many faults of a value are listed. */
const MAX_LISTED_ISSUES = 5;

/**
 * Checks `value` against `schema`, and that its text can be stored and passed on ({@link textIssue}).
 * Throws `invalid_request` with a sentence that names every invalid field.
 */
export function parseWith<S extends z.ZodType>(
  schema: S,
  value: unknown,
  where: string,
): z.output<S> {
  const result = schema.safeParse(value);
  if (!result.success) {
    throw invalidFields(where, result.error.issues.slice(0, MAX_LISTED_ISSUES).map(fieldIssue));
  }
  const issue = textIssue(value);
  if (issue !== undefined) throw invalidFields(where, [issue]);
  return result.data;
}

/** `invalid_request` with a sentence that names every field at fault. */
export function invalidFields(
  where: string,
  issues: readonly FieldIssue[],
  remedy = '',
): TorporError {
  const faults = issues.map(({ field, problem }) =>
    field === '' ? problem : `${field} ${problem}`,
  );
  const message = `Invalid ${where}: ${faults.join('; ')}.`;
  return new TorporError('invalid_request', message, { issues, remedy });
}

function fieldIssue(issue: z.core.$ZodIssue): FieldIssue {
  const path = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    const [name = '', ...others] = issue.keys.map((key) => key.slice(0, 100));
    const more = others.length === 0 ? '' : ` (nor ${others.slice(0, 9).join(', ')})`;
    return {
      field: fieldName([...path, name]),
      problem: `is not a known field${more}`,
    };
  }
  return { field: fieldName(path), problem: problemOf(issue) };
}

/** What is wrong with a field, as a phrase that follows its name; Zod's own messages are about types. */
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
      return 'does not have any of the allowed forms';
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
