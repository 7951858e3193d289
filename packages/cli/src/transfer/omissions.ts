import type { Omission } from '@torpor/agent/file-tree';
import { type Io, line } from '../io.ts';

/** More are counted and not named: a sandbox could produce them without end. */
const MAX_NAMED = 10_000;

/** What a copy left out, or could not copy as it was. */
export class Omissions {
  readonly named: Omission[] = [];
  total = 0;

  add(omission: Omission): void {
    this.total += 1;
    if (this.named.length < MAX_NAMED) this.named.push(omission);
  }

  /** A line on standard error for each. `root` is what an empty path means. */
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

/** Names come from anywhere: what would move the cursor is shown as an escape. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) =>
    character === '\n' ? '\\n' : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}
