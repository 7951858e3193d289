/** The operating-system account that the database's programs run under. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}
