import { CommandError } from './command.ts';

/** An object that a tool printed as JSON; the caller checks its fields. */
export type ToolObject = Readonly<Record<string, unknown>>;

/**
 * The JSON in the output of a tool. Lines before it are warnings that the tool printed to the
 * same stream; empty output is undefined. Throws CommandError, with the command and what it
 * printed instead.
 */
export function parseToolJson(command: readonly string[], output: string): unknown {
  if (output.trim() === '') return undefined;
  const start = /^[[{]/m.exec(output)?.index;
  try {
    if (start !== undefined) return JSON.parse(output.slice(start));
  } catch {
    // Reported below.
  }
  throw new CommandError(command, 'what it printed is not JSON', undefined, output.slice(0, 400));
}

/**
 * Those of a tool's list that are objects with something in them. What ip(8) filters out by
 * itself, because this kernel does not, it leaves in its list as `{}`.
 */
export function objectsIn(list: unknown): ToolObject[] {
  if (!Array.isArray(list)) return [];
  return list.filter(
    (item): item is ToolObject =>
      typeof item === 'object' &&
      item !== null &&
      !Array.isArray(item) &&
      Object.keys(item).length > 0,
  );
}
