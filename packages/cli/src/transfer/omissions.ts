import type { Omission } from '@torpor/agent/file-tree';
import { type Io, line } from '../io.ts';

/** More are counted and not named: a sandbox could produce any number. */
const MAX_NAMED = 10_000;

/** The files that a copy omitted, or could not copy exactly. */
export class Omissions {
  readonly named: Omission[] = [];
  total = 0;

  add(omission: Omission): void {
    this.total += 1;
    if (this.named.length < MAX_NAMED) this.named.push(omission);
  }

  /** Prints a line on standard error for each. `root` is shown for an empty path. */
  async report(io: Io, root: string): Promise<void> {
    for (const { path, reason } of this.named) {
      await line(
        io.stderr,
        `torpor: not copied: ${printable(path === '' ? root : path)}: ${printable(reason)}`,
      );
    }
    const more = this.total - this.named.length;
    if (more > 0) await line(io.stderr, `torpor: not copied: ${more} more`);
  }
}

/** Names are untrusted: control characters are shown as escapes. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) =>
    character === '\n' ? '\\n' : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}
