/** What `program.ts` is asked to do, as JSON in its first argument. */
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
