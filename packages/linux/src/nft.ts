import { CommandError } from './command.ts';
import { type NamespaceOptions, runInNamespace } from './netns.ts';
import { objectsIn, parseToolJson, type ToolObject } from './tool-json.ts';

/**
 * Returns `name` if it can name a table, chain or set of nftables: 1 to 64
 * characters of `[a-z0-9_]`, a letter first. Throws RangeError.
 */
export function checkedNftName(name: string): string {
  if (!/^[a-z][a-z0-9_]{0,63}$/.test(name)) {
    throw new RangeError(`${JSON.stringify(name)} is not a name for nftables.`);
  }
  return name;
}

/**
 * Applies a script of nft(8) as one transaction: all of it or nothing. The caller
 * composes it from names and addresses that it has checked. Throws CommandError.
 */
export async function nftApply(script: string, options: NamespaceOptions = {}): Promise<void> {
  await runInNamespace(options.namespace, 'nft', ['-f', '-'], { input: script });
}

/**
 * The objects that `nft -j -s list <what>` prints (libnftables-json(5)), of which the first
 * is usually `metainfo`. None where it prints nothing. Throws CommandError.
 */
export async function nftList(
  what: readonly string[],
  options: NamespaceOptions = {},
): Promise<ToolObject[]> {
  const args = ['-j', '-s', 'list', ...what];
  const output = await runInNamespace(options.namespace, 'nft', args);
  const [document] = objectsIn([parseToolJson(['nft', ...args], output)]);
  return objectsIn(document?.nftables);
}

/** The `inet` table of this name as {@link nftList} gives it, or undefined if there is none. */
export async function nftInetTable(
  name: string,
  options: NamespaceOptions = {},
): Promise<ToolObject[] | undefined> {
  try {
    return await nftList(['table', 'inet', checkedNftName(name)], options);
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('No such file or directory')) {
      return undefined;
    }
    throw error;
  }
}
