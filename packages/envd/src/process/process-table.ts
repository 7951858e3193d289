import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { REMEDIES, TorporError } from '@torpor/protocol';
import type { EnvdContext } from '../context.ts';
import type { ProcessExit } from '../process-exit.ts';
import type { User } from '../users.ts';
import { GuestProcess, type ProcessDescription, type TerminalSize } from './guest-process.ts';
import { unusableDirectory } from './launch-error.ts';
import type { Launcher, LaunchRequest } from './launcher.ts';
import { openPipes } from './pipe-channel.ts';
import { openPty } from './pty-channel.ts';

export interface StartOptions {
  readonly user: User;
  readonly description: ProcessDescription;
  /** With a terminal of this size instead of pipes. */
  readonly terminal: TerminalSize | undefined;
  /** Without it the program reads /dev/null. Ignored with a terminal. */
  readonly stdin: boolean;
}

/** A process as it is listed; with an `end` once it has exited. */
export interface ListedProcess {
  readonly pid: number;
  readonly description: ProcessDescription;
  readonly end?: ProcessExit | undefined;
}

export type Selector = { readonly pid: number } | { readonly tag: string };

/** How long the last output and the exit of a process can still be fetched. */
const EXITED_RETENTION_MS = 30_000;
/** Bounds the memory of a guest that starts very many short processes. */
const MAX_EXITED = 256;
/** How many detached processes that have exited are still listed. */
const MAX_EXITED_DETACHED = 100;
/** The only UTF-8 locale that every current C library has built in. */
const LANG = 'C.UTF-8';

export interface ProcessTableOptions {
  readonly context: EnvdContext;
  readonly launcher: Launcher;
  /** `PATH` of processes whose request and `/init` set none. */
  readonly searchPath: string;
  /** Returns an account's `XDG_RUNTIME_DIR`; if omitted or undefined, programs have none. */
  readonly runtimeDirectory?: ((user: User) => string | undefined) | undefined;
}

/** All processes that were started through envd and are still listed. */
export class ProcessTable {
  readonly #context: EnvdContext;
  readonly #launcher: Launcher;
  readonly #searchPath: string;
  readonly #runtimeDirectory: ((user: User) => string | undefined) | undefined;
  readonly #running = new Set<GuestProcess>();
  readonly #exited = new Set<GuestProcess>();
  readonly #exitedDetached: ListedProcess[] = [];

  constructor({ context, launcher, searchPath, runtimeDirectory }: ProcessTableOptions) {
    this.#context = context;
    this.#launcher = launcher;
    this.#searchPath = searchPath;
    this.#runtimeDirectory = runtimeDirectory;
  }

  /** In the order in which they were started. */
  running(): ListedProcess[] {
    return [...this.#running];
  }

  /** The last detached processes that have exited, in that order. Their environment is not kept. */
  exited(): ListedProcess[] {
    return [...this.#exitedDetached];
  }

  /**
   * Starts a process. Throws the TorporErrors of {@link unusableDirectory} and
   * `launchError`.
   */
  async start(options: StartOptions): Promise<GuestProcess> {
    const { description, terminal, user } = options;
    const request: LaunchRequest = {
      user,
      program: description.cmd,
      args: description.args,
      env: this.#environment(user, description.envs),
      cwd: await this.#workingDirectory(user, description.cwd),
    };
    checkArguments(request);
    const onExit = (process: GuestProcess): void => this.#retire(process);
    if (terminal === undefined) {
      const pipes = await this.#launcher.startOnPipes(request, options.stdin);
      const process = GuestProcess.follow(
        description,
        (events) => openPipes(pipes, events),
        onExit,
      );
      this.#running.add(process);
      return process;
    }
    const process = GuestProcess.follow(
      description,
      (events) => openPty(this.#launcher, request, terminal, events),
      onExit,
    );
    this.#running.add(process);
    return process;
  }

  /** A running process. Throws ConnectError `not_found`. */
  find(selector: Selector): GuestProcess {
    return newestMatch(this.#running, selector) ?? notFound(selector);
  }

  /** A process that is running or exited at most 30 s ago. Throws ConnectError `not_found`. */
  findOrExited(selector: Selector): GuestProcess {
    return (
      newestMatch(this.#running, selector) ??
      newestMatch(this.#exited, selector) ??
      notFound(selector)
    );
  }

  /** Kills all running processes. */
  killAll(): void {
    for (const process of this.#running) {
      if (!process.exited) process.signal('SIGKILL');
    }
  }

  #retire(process: GuestProcess): void {
    this.#running.delete(process);
    if (process.description.detached) this.#rememberExit(process);
    this.#exited.add(process);
    const forget = setTimeout(() => this.#exited.delete(process), EXITED_RETENTION_MS);
    forget.unref();
    if (this.#exited.size > MAX_EXITED) {
      const [oldest] = this.#exited;
      if (oldest !== undefined) this.#exited.delete(oldest);
    }
  }

  #rememberExit({ pid, description, output }: GuestProcess): void {
    this.#exitedDetached.push({ pid, description: { ...description, envs: {} }, end: output.end });
    if (this.#exitedDetached.length > MAX_EXITED_DETACHED) this.#exitedDetached.shift();
  }

  #environment(user: User, requested: Readonly<Record<string, string>>): Record<string, string> {
    const runtimeDirectory = this.#runtimeDirectory?.(user);
    return {
      // The directory in which pip and others install programs of an account other than root.
      PATH:
        user.uid === 0 ? this.#searchPath : `${join(user.home, '.local/bin')}:${this.#searchPath}`,
      HOME: user.home,
      USER: user.name,
      LOGNAME: user.name,
      SHELL: user.shell,
      LANG,
      ...(runtimeDirectory === undefined ? {} : { XDG_RUNTIME_DIR: runtimeDirectory }),
      ...this.#context.envVars,
      ...requested,
    };
  }

  async #workingDirectory(user: User, requested: string | undefined): Promise<string> {
    const path = this.#context.resolvePath(requested ?? '', user);
    const found = await stat(path).catch(() => undefined);
    if (found?.isDirectory()) return path;
    const isImplied = (requested ?? '') === '' && this.#context.defaultWorkdir === undefined;
    if (isImplied) return '/';
    throw unusableDirectory(path, found === undefined ? 'does not exist' : 'is not a directory');
  }
}

function checkArguments({ program, args, env }: LaunchRequest): void {
  if (program === '') {
    throw new TorporError('invalid_request', 'The command is empty.');
  }
  const names = Object.keys(env);
  const texts = [program, ...args, ...names, ...Object.values(env)];
  if (texts.some((text) => text.includes('\0'))) {
    throw new TorporError(
      'invalid_request',
      'Arguments and environment variables cannot contain a NUL byte.',
    );
  }
  const wrong = names.find((name) => name === '' || name.includes('='));
  if (wrong !== undefined) {
    throw new TorporError(
      'invalid_request',
      `'${wrong}' cannot be the name of an environment variable.`,
    );
  }
}

function newestMatch(
  processes: ReadonlySet<GuestProcess>,
  selector: Selector,
): GuestProcess | undefined {
  return [...processes].findLast((process) =>
    'pid' in selector ? process.pid === selector.pid : process.description.tag === selector.tag,
  );
}

function notFound(selector: Selector): never {
  const [by, value] = 'pid' in selector ? ['pid', selector.pid] : ['tag', selector.tag];
  throw new TorporError('not_found', `process with ${by} ${value} not found`, {
    remedy: REMEDIES.listProcesses,
  }).toConnectError();
}
