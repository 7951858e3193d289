/** How a process exited, as the wire reports it. */
export interface ProcessExit {
  /** The exit status; -1 if a signal terminated the process. */
  readonly exitCode: number;
  /** Whether it exited by itself, not by a signal. */
  readonly exited: boolean;
  readonly status: string;
  /** Undefined after exit status 0. */
  readonly error: string | undefined;
}
