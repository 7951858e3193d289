/** An operating-system account that programs of the database run under. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}
