import { fileURLToPath } from 'node:url';

/** The module to bundle and run on the other side; see `program.ts`. A path, because nothing imports it. */
export const FILE_TREE_PROGRAM = fileURLToPath(new URL('program.ts', import.meta.url));

/** What the program is asked to do, as JSON in its first argument. */
export type FileTreeRequest =
  | { readonly role: 'send'; readonly path: string; readonly archive: boolean }
  | {
      readonly role: 'receive';
      readonly destination: string;
      readonly archive: boolean;
      readonly keepSetId: boolean;
      /**
       * A sender that is alive sends keep-alives. After this long without a record, the process
       * that keeps our input open (a server that was killed leaves it so) is not going to send
       * more.
       */
      readonly silenceLimitMs: number;
    };
