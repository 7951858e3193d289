import type { FieldIssue } from '@torpor/protocol';

/**
 * The first text of a JSON value, names of members included, that is not Unicode or has a NUL:
 * PostgreSQL stores neither, and Linux and UTF-8 cannot pass them on.
 */
export function textIssue(value: unknown, path: readonly string[] = []): FieldIssue | undefined {
  if (typeof value === 'string') {
    const part = unstorablePart(value);
    if (part === undefined) return undefined;
    return { field: fieldName(path), problem: `must not contain ${part}` };
  }
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [name, member] of Object.entries(value)) {
    const part = unstorablePart(name);
    if (part !== undefined) return { field: fieldName(path), problem: `has a name with ${part}` };
    const issue = textIssue(member, [...path, name]);
    if (issue !== undefined) return issue;
  }
  return undefined;
}

function unstorablePart(text: string): string | undefined {
  if (text.includes('\0')) return 'a NUL byte';
  return text.isWellFormed() ? undefined : 'half of a surrogate pair';
}

/** The name of a field in an error. */
export function fieldName(path: readonly string[]): string {
  return path.join('.').slice(0, 200);
}

/** Text of a guest or host as it can be stored: what cannot be is replaced. */
export function storableText(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\ufffd');
}
