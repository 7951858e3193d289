import { TorporError } from '@torpor/sdk/basics';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT, exitCodeOfError } from '../exit-codes.ts';
import { type Io, json, line } from '../io.ts';
import { errorEntry, printRemedies } from '../output/report-error.ts';

/** Each removal may wait for a VMM to exit; more at once would only queue on the host. */
const CONCURRENCY = 4;

interface Removal<K extends string> {
  /** What identifies a thing: the name of the field in JSON. */
  readonly key: K;
  /** Removes one, and returns how it is called in full. */
  readonly remove: (given: string) => Promise<string>;
}

/**
 * Removes all that can be removed, prints each, and reports the others. The exit status is that
 * of the first failure, in the order in which they were given.
 */
export async function removeEach<K extends string>(
  io: Io,
  given: Iterable<string>,
  { json: asJson }: CommonOptions,
  { key, remove }: Removal<K>,
): Promise<number> {
  const names = [...new Set(given)];
  const errors = new Map<string, TorporError>();
  const removed = new Map<string, string>();
  const waiting = [...names];
  const worker = async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      try {
        const full = await remove(name);
        removed.set(name, full);
        if (!asJson) await line(io.stdout, full);
      } catch (reason) {
        const error = TorporError.from(reason);
        errors.set(name, error);
        await line(io.stderr, `torpor: ${failureOf(name, error)}`);
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  const failures = names.flatMap((name) => errors.get(name) ?? []);
  await printRemedies(io, failures);
  if (asJson) {
    const entries = names.map((name) => {
      const error = errors.get(name);
      return error === undefined
        ? { [key]: removed.get(name) ?? name, removed: true }
        : { [key]: name, removed: false, error: errorEntry(error) };
    });
    await json(io, entries);
  }
  return failures[0] === undefined ? EXIT.ok : exitCodeOfError(failures[0]);
}

/** Names the thing unless the message does, as there may be several. */
function failureOf(name: string, { message }: TorporError): string {
  return message.includes(name) ? message : `${name}: ${message}`;
}
