/** The last entry of a page, in a list that is newest first. */
export interface Cursor {
  readonly createdAt: Date;
  readonly id: string;
}

/** A part of a list; all of it without a limit. */
export interface Page<Position> {
  /** Begins behind this one. */
  readonly after: Position | undefined;
  readonly limit: number | undefined;
}
