import { type NamespaceOptions, runInNamespace } from './netns.ts';
import { objectsIn, parseToolJson, type ToolObject } from './tool-json.ts';

/**
 * Returns `name` if it can name a network interface: 1 to 15 characters (IFNAMSIZ
 * less the terminator) of `[A-Za-z0-9_-]`. Throws RangeError.
 */
export function checkedInterfaceName(name: string): string {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_-]{0,14}$/.test(name)) {
    throw new RangeError(`${JSON.stringify(name)} is not the name of a network interface.`);
  }
  return name;
}

export interface IpBatchOptions extends NamespaceOptions {
  /** Carry on after a line that fails; the call still fails at the end. */
  readonly force?: boolean;
}

/**
 * Runs commands of ip(8), one per line and without the word `ip`, in a single process. Lines
 * have words of `[A-Za-z0-9_.:/-]` separated by single spaces: what `ip -batch` would treat as
 * a comment, a quote or another line is a RangeError. Throws CommandError at the first line
 * that fails.
 */
export async function ipBatch(
  lines: readonly string[],
  options: IpBatchOptions = {},
): Promise<void> {
  for (const line of lines) {
    if (!/^[A-Za-z0-9_.:/-]+(?: [A-Za-z0-9_.:/-]+)*$/.test(line)) {
      throw new RangeError(`${JSON.stringify(line)} cannot be a line of an ip batch.`);
    }
  }
  const force = options.force === true ? ['-force'] : [];
  await runInNamespace(options.namespace, 'ip', [...force, '-batch', '-'], {
    input: `${lines.join('\n')}\n`,
  });
}

/**
 * The objects in the list that `ip -json -details <args>` prints. There are none where it
 * prints nothing at all, as for some empty lists, and no empty ones: a kernel that has not
 * loaded the module of a link's type cannot filter by that type, so ip does, and leaves `{}`
 * for each of the others. Throws CommandError.
 */
export async function ipJson(
  args: readonly string[],
  options: NamespaceOptions = {},
): Promise<ToolObject[]> {
  const command = ['-json', '-details', ...args];
  const output = await runInNamespace(options.namespace, 'ip', command);
  return objectsIn(parseToolJson(['ip', ...command], output));
}
