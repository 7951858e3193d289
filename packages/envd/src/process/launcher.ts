import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { resolve } from 'node:path';
import {
  createPipe,
  openTerminal,
  type ProcessExit,
  spawnOnTerminal,
  type TerminalWindow,
  withCredentials,
} from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { errnoName } from '../filesystem/errors.ts';
import type { DaemonProtection } from '../protection/daemon-protection.ts';
import type { ExplainExit } from '../protection/program-groups.ts';
import type { User } from '../users.ts';
import { isForeignElf, type LaunchRequest, launchError, programPaths } from './launch-error.ts';

export type { LaunchRequest } from './launch-error.ts';

export interface LaunchedTerminal {
  readonly pid: number;
  /** The master of the terminal; the caller closes it. */
  readonly masterFd: number;
  readonly explainExit: ExplainExit;
}

export interface LaunchedPipes {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly explainExit: ExplainExit;
  /** Undefined if the program reads /dev/null. */
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

  /** @param protection The daemon's protection, which its children must not inherit. */
  constructor(protection?: DaemonProtection) {
    this.#protection = protection;
  }

  /**
   * Starts a program on pipes. Throws the TorporError that {@link launchError} makes of
   * the cause.
   */
  async startOnPipes(request: LaunchRequest, withStdin: boolean): Promise<LaunchedPipes> {
    const { program, args, cwd, env } = request;
    const { child, stdin, stdout, stderr } = this.#launch(request, () => {
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
      // Node throws some errors of spawn, and reports others as an event.
      const error = await new Promise<unknown>((resolve) => child.once('error', resolve));
      throw this.#explain(request, error);
    }
    return {
      child,
      pid,
      explainExit: this.#admit(pid, request.user),
      stdin:
        stdin === undefined
          ? undefined
          : new Socket({ fd: stdin, readable: false, writable: true }),
      stdout: new Socket({ fd: stdout, readable: true, writable: false }),
      stderr: new Socket({ fd: stderr, readable: true, writable: false }),
    };
  }

  /** Starts a program on a new terminal. Throws as {@link startOnPipes} does. */
  startOnTerminal(
    request: LaunchRequest,
    window: TerminalWindow,
    onExit: (exit: ProcessExit) => void,
  ): LaunchedTerminal {
    const launched = this.#launch(request, () => {
      const { masterFd, path } = openTerminal(window);
      try {
        return { masterFd, pid: executeOnTerminal(request, path, onExit) };
      } catch (error) {
        closeSync(masterFd);
        throw error;
      }
    });
    return { ...launched, explainExit: this.#admit(launched.pid, request.user) };
  }

  #launch<T>(request: LaunchRequest, fork: () => T): T {
    try {
      return this.asUser(request.user, () => {
        refuseForeignElf(request);
        return fork();
      });
    } catch (error) {
      throw this.#explain(request, error);
    }
  }

  /** Reads the file system with the account's credentials. */
  #explain(request: LaunchRequest, cause: unknown): TorporError {
    if (cause instanceof TorporError) return cause;
    return this.asUser(request.user, () => launchError(request, cause));
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

  /** To be called for every process that was forked in {@link asUser}; returns what explains its exit. */
  #admit(pid: number, user: User): ExplainExit {
    return this.#protection?.admit(pid, user.uid) ?? ((end) => end);
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

/** Throws ENOEXEC where execvp(3) would run a program of another processor as a shell script. */
function refuseForeignElf({ program, cwd }: LaunchRequest): void {
  // Programs on the PATH belong to the image; checking them would slow every start.
  if (!program.includes('/') || !isForeignElf(resolve(cwd, program))) return;
  throw Object.assign(new Error(`${program} is for another processor`), { code: 'ENOEXEC' });
}

/**
 * Does what execvp(3) does, which Node uses for pipes: searches the PATH, and runs a script
 * without `#!` with the shell.
 */
function executeOnTerminal(
  request: LaunchRequest,
  terminal: string,
  onExit: (exit: ProcessExit) => void,
): number {
  const { program, args, cwd } = request;
  const env = Object.entries(request.env).map(([name, value]) => `${name}=${value}`);
  const execute = (path: string, argv: readonly string[]): number =>
    spawnOnTerminal({ path, argv, env, cwd, terminal }, onExit);
  let failure: unknown;
  for (const path of programPaths(request)) {
    try {
      return execute(path, [program, ...args]);
    } catch (error) {
      const name = errnoName(error) ?? '';
      if (name === 'ENOEXEC') return execute('/bin/sh', ['/bin/sh', path, ...args]);
      if (!SEARCHED_ON.has(name)) throw error;
      // As with execvp, EACCES takes precedence over later errors of the search.
      if (failure === undefined || name === 'EACCES') failure = error;
    }
  }
  throw failure;
}

/** The errors after which the search for a program continues. */
const SEARCHED_ON = new Set(['EACCES', 'ENOENT', 'ENOTDIR', 'ESTALE', 'ENODEV', 'ETIMEDOUT']);
