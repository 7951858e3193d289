import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Socket } from 'node:net';
import { resolve } from 'node:path';
import { createPipe, withCredentials } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import type { DaemonProtection } from '../daemon-protection.ts';
import type { User } from '../users.ts';

export interface LaunchRequest {
  readonly user: User;
  readonly program: string;
  readonly args: readonly string[];
  /** The whole environment of the program. */
  readonly env: Readonly<Record<string, string>>;
  /** An absolute path that exists. */
  readonly cwd: string;
}

export interface LaunchedPipes {
  readonly child: ChildProcess;
  readonly pid: number;
  /** Absent if the program reads /dev/null. */
  readonly stdin: Socket | undefined;
  readonly stdout: Socket;
  readonly stderr: Socket;
}

/**
 * Starts programs as an account of the guest, each the leader of a session of its
 * own, with the account's supplementary groups and without the daemon's protection.
 */
export class Launcher {
  readonly #protection: DaemonProtection | undefined;

  /** @param protection What the daemon has and its children must not inherit. */
  constructor(protection?: DaemonProtection) {
    this.#protection = protection;
  }

  /**
   * Starts a program on pipes. Throws TorporError `program_not_found`, or
   * `invalid_request` if it may not be executed or entered.
   */
  async startOnPipes(request: LaunchRequest, withStdin: boolean): Promise<LaunchedPipes> {
    const { program, args, cwd, env } = request;
    const { child, stdin, stdout, stderr } = this.asUser(request.user, () => {
      const theirs: number[] = [];
      const mine: number[] = [];
      try {
        const stdin = withStdin ? createPipe() : undefined;
        if (stdin !== undefined) {
          theirs.push(stdin.readFd);
          mine.push(stdin.writeFd);
        }
        const stdout = createPipe();
        theirs.push(stdout.writeFd);
        mine.push(stdout.readFd);
        const stderr = createPipe();
        theirs.push(stderr.writeFd);
        mine.push(stderr.readFd);
        const child = spawn(program, args, {
          cwd,
          env,
          detached: true,
          stdio: [stdin?.readFd ?? 'ignore', stdout.writeFd, stderr.writeFd],
        });
        return {
          child,
          stdin: stdin?.writeFd,
          stdout: stdout.readFd,
          stderr: stderr.readFd,
        };
      } catch (error) {
        for (const fd of mine) closeSync(fd);
        throw error;
      } finally {
        for (const fd of theirs) closeSync(fd);
      }
    });
    const { pid } = child;
    if (pid === undefined) {
      for (const fd of [stdin, stdout, stderr]) {
        if (fd !== undefined) closeSync(fd);
      }
      const error = await new Promise<unknown>((resolve) => child.once('error', resolve));
      throw launchError(request, error);
    }
    this.admit(pid);
    return {
      child,
      pid,
      stdin:
        stdin === undefined
          ? undefined
          : new Socket({ fd: stdin, readable: false, writable: true }),
      stdout: new Socket({ fd: stdout, readable: true, writable: false }),
      stderr: new Socket({ fd: stderr, readable: true, writable: false }),
    };
  }

  /**
   * Runs `fork`, which forks a process, so that the process belongs to `user` and
   * has ordinary priority. Throws TorporError `forbidden` if the daemon itself is
   * not root and `user` is another account.
   */
  asUser<T>(user: User, fork: () => T): T {
    return this.#unprotected(() => {
      if (isOwnIdentity(user)) return fork();
      if (process.getuid?.() !== 0) {
        throw new TorporError(
          'forbidden',
          `envd does not run as root, so it cannot start programs as '${user.name}'`,
        );
      }
      return withCredentials(user, fork);
    });
  }

  /** To be called for every process that was forked in {@link asUser}. */
  admit(pid: number): void {
    this.#protection?.admit(pid);
  }

  #unprotected<T>(fork: () => T): T {
    return this.#protection === undefined ? fork() : this.#protection.suspended(fork);
  }
}

function isOwnIdentity(user: User): boolean {
  if (process.getuid?.() !== user.uid || process.getgid?.() !== user.gid) {
    return false;
  }
  if (user.uid !== 0) return true;
  const own = new Set([...(process.getgroups?.() ?? []), user.gid]);
  return own.size === new Set(user.groups).size && user.groups.every((gid) => own.has(gid));
}

/**
 * Throws what {@link launchError} says if the program is not to be found. For a
 * fork that cannot report a failed execve(2).
 */
export async function checkProgram(request: LaunchRequest): Promise<void> {
  const { program, cwd, env } = request;
  const candidates = program.includes('/')
    ? [resolve(cwd, program)]
    : (env.PATH ?? '').split(':').map((directory) => resolve(cwd, directory, program));
  let failure = 'ENOENT';
  for (const path of candidates) {
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() && (found.mode & 0o111) !== 0) return;
    if (found !== undefined) failure = 'EACCES';
  }
  throw launchError(request, Object.assign(new Error(failure), { code: failure }));
}

/** The error for a program that could not be executed. */
export function launchError({ program, cwd }: LaunchRequest, cause: unknown): TorporError {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  switch (code) {
    case 'ENOENT':
      return new TorporError(
        'program_not_found',
        `The program '${program}' does not exist in the sandbox.`,
        { cause },
      );
    case 'EACCES':
      return new TorporError(
        'program_not_found',
        `The program '${program}' may not be executed, or '${cwd}' may not be entered.`,
        { cause },
      );
    case 'E2BIG':
      return new TorporError(
        'invalid_request',
        'The arguments and the environment are too long together.',
        { cause },
      );
    default:
      return TorporError.from(cause);
  }
}
