/** A program to run in a sandbox. Omitted fields have the sandbox's defaults. */
export interface Program {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly envs?: Readonly<Record<string, string>> | undefined;
  readonly cwd?: string | undefined;
  /** `user` or `user:group`, by name or number. */
  readonly user?: string | undefined;
}

/** A process by its pid, or by the tag that its caller gave it. */
export type ProcessSelector =
  | { readonly case: 'pid'; readonly value: number }
  | { readonly case: 'tag'; readonly value: string };

/** The fields that all messages to the agent that start a program share. */
export function programMessage({ cmd, args, envs, cwd, user }: Program) {
  return {
    cmd,
    args: [...args],
    envs: { ...envs },
    ...(cwd === undefined ? {} : { cwd }),
    ...(user === undefined ? {} : { user }),
  };
}

/** The time limit of a program in the agent's messages, which have none for 0. */
export function timeoutMessage(timeoutSec: number): { timeoutSec?: number } {
  return timeoutSec === 0 ? {} : { timeoutSec };
}
