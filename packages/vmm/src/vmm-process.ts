import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { open, stat, truncate } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  closeFd,
  exitOfPidfd,
  exitOfZombie,
  identifyProcess,
  isProcessAlive,
  NETNS_DIRECTORY,
  openPidfd,
  type ProcessExit,
  type ProcessIdentity,
  SystemError,
  signalProcess,
} from '@torpor/linux';
import { TorporError, withFullStop } from '@torpor/protocol';

export interface SpawnOptions {
  /** What the VMM is called in messages. */
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  /** Network namespace (`ip netns`) to run in. */
  readonly namespace?: string;
  /** `/` if omitted. */
  readonly workingDirectory?: string;
  /** Standard error is appended here, and standard output unless {@link outputFd} is given. */
  readonly outputPath: string;
  /** A log that the VMM writes itself, kept within the same bound. */
  readonly logPath?: string;
  /** An open file for standard output. */
  readonly outputFd?: number;
  /** A file that is opened to be read and written, and inherited as descriptor `fd`. */
  readonly inherited?: { readonly path: string; readonly fd: number };
  /** Variables beyond PATH and LANG. */
  readonly environment?: Readonly<Record<string, string>>;
}

const POLL_MS = 400;
/** How often and how soon one that has exited is checked again: its parent may not have reaped it yet. */
const MOST_LOOKS = 4;
const LOOK_AGAIN_MS = 50;
/** A VMM prints a few lines in all; what a guest could make it repeat must not fill the disk. */
const MAX_OUTPUT_BYTES = 256 * 1024;
/** SIGKILL takes effect when the last thread leaves the kernel, which for KVM can take a moment. */
const KILL_TIMEOUT_MS = 60_000;
const KILL_POLL_MS = 20;

/**
 * A detached VMM process: one that this process started, or one that an earlier
 * one did. Both are watched in /proc; a child's exit is known at once, with its status.
 */
export class VmmProcess {
  /** What the VMM is called in messages. */
  readonly name: string;
  readonly identity: ProcessIdentity;
  /**
   * Resolves within {@link POLL_MS} and a little of the exit, unless {@link unwatch} was called
   * before. Empty for one that is not our child and whose status the kernel does not report.
   */
  readonly exited: Promise<ProcessExit>;
  readonly #boundedPaths: readonly string[];
  readonly #exited: (exit: ProcessExit) => void;
  readonly #isChild: boolean;
  /** Of one that is not our child: reports how it exited. */
  #pidfd: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #status: ProcessExit | undefined;
  /** Checks that found it exited. */
  #looks = 0;

  private constructor(
    name: string,
    identity: ProcessIdentity,
    boundedPaths: readonly string[],
    watched: ChildProcess | { readonly pidfd: number },
  ) {
    const child = 'pidfd' in watched ? undefined : watched;
    this.#pidfd = 'pidfd' in watched ? watched.pidfd : undefined;
    this.name = name;
    this.identity = identity;
    this.#boundedPaths = boundedPaths;
    const { promise, resolve } = Promise.withResolvers<ProcessExit>();
    this.exited = promise;
    this.#exited = (exit) => {
      this.unwatch();
      this.#status ??= exit;
      resolve(this.#status);
    };
    this.#lookEvery(POLL_MS);
    child?.once('exit', (code, signal) => {
      this.#exited({
        ...(code === null ? {} : { exitCode: code }),
        ...(signal === null ? {} : { signal }),
      });
    });
    // A child's own exit event brings the status, and comes once it has been reaped.
    this.#isChild = child !== undefined;
  }

  /**
   * Starts a VMM in a session of its own, so that neither a terminal's signals
   * nor our exit reach it. Throws `host_setup` if the program cannot be run.
   */
  static async spawn(options: SpawnOptions): Promise<VmmProcess> {
    await using resources = new AsyncDisposableStack();
    const output = await open(options.outputPath, 'a', 0o600);
    resources.defer(() => output.close());
    const stdio: (number | 'ignore')[] = ['ignore', options.outputFd ?? output.fd, output.fd];
    if (options.inherited !== undefined) {
      const inherited = await open(options.inherited.path, constants.O_RDWR);
      resources.defer(() => inherited.close());
      stdio[options.inherited.fd] = inherited.fd;
    }
    const command = inNamespace(options);
    const child = spawn(command.program, command.args, {
      detached: true,
      cwd: options.workingDirectory ?? '/',
      env: { PATH: process.env.PATH, LANG: 'C.UTF-8', ...options.environment },
      stdio,
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', (error) => {
        const what = `${command.program} could not be started: ${withFullStop(error.message)}`;
        reject(new TorporError('host_setup', what, { cause: error }));
      });
    });
    child.unref();
    const pid = child.pid ?? -1;
    // A child that has exited already keeps its pid until its exit event, which nothing has
    // awaited yet.
    const identity = identifyProcess(pid) ?? { pid, startTimeTicks: '0' };
    const { name, outputPath, logPath } = options;
    return new VmmProcess(name, identity, bounded(outputPath, logPath), child);
  }

  /** Watches a process that an earlier one started; undefined if it has exited. */
  static adopt(
    name: string,
    identity: ProcessIdentity,
    outputPath: string,
    logPath?: string,
  ): VmmProcess | undefined {
    const pidfd = pidfdOf(identity);
    if (pidfd === undefined) return undefined;
    return new VmmProcess(name, identity, bounded(outputPath, logPath), { pidfd });
  }

  /** Undefined while it runs. */
  get status(): ProcessExit | undefined {
    return this.#status ?? (this.#looks > 0 ? {} : undefined);
  }

  /** Checks whether the process still runs. */
  check(): void {
    if (!this.#isChild && this.#status === undefined && !isProcessAlive(this.identity)) {
      this.#looks++;
      const exit = this.#exit();
      if (exit !== 'pending') this.#exited(exit ?? {});
      else if (this.#looks >= MOST_LOOKS) this.#exited({});
      else if (this.#looks === 1) this.#lookEvery(LOOK_AGAIN_MS);
    }
    for (const path of this.#boundedPaths) {
      boundFile(path, MAX_OUTPUT_BYTES).catch(() => undefined);
    }
  }

  #lookEvery(intervalMs: number): void {
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.check(), intervalMs).unref();
  }

  /** How one that is not our child has exited; undefined if unknown. */
  #exit(): ProcessExit | 'pending' | undefined {
    const early = exitOfZombie(this.identity);
    if (early !== undefined || this.#pidfd === undefined) return early;
    return exitOfPidfd(this.#pidfd);
  }

  /** Kills the process and waits until it has exited. Throws `vmm_failed` if it does not. */
  async kill(): Promise<void> {
    if (this.#status !== undefined) return;
    signalProcess(this.identity, 'SIGKILL');
    const deadline = performance.now() + KILL_TIMEOUT_MS;
    while (performance.now() < deadline) {
      // Checked here too, because nothing else does after unwatch().
      this.check();
      if (await this.exitsWithin(KILL_POLL_MS)) return;
    }
    throw new TorporError(
      'vmm_failed',
      `${this.name} (pid ${this.identity.pid}) did not exit when killed.`,
    );
  }

  /** Waits for the exit, with a time limit; returns whether it exited. */
  async exitsWithin(timeoutMs: number): Promise<boolean> {
    const cancel = new AbortController();
    const timeout = sleep(timeoutMs, false, { signal: cancel.signal }).catch(() => false);
    const exited = await Promise.race([this.exited.then(() => true), timeout]);
    cancel.abort();
    return exited;
  }

  /** Stops watching; the process keeps running. */
  unwatch(): void {
    clearInterval(this.#timer);
    if (this.#pidfd !== undefined) closeFd(this.#pidfd);
    this.#pidfd = undefined;
  }
}

/** A pidfd of this very process; undefined if it has exited. */
function pidfdOf(identity: ProcessIdentity): number | undefined {
  let pidfd: number;
  try {
    pidfd = openPidfd(identity.pid);
  } catch (error) {
    if (error instanceof SystemError && error.code === 'ESRCH') return undefined;
    throw error;
  }
  // Checked after the pidfd was opened: a later process with the same pid is detected.
  if (isProcessAlive(identity)) return pidfd;
  closeFd(pidfd);
  return undefined;
}

function bounded(outputPath: string, logPath: string | undefined): string[] {
  return logPath === undefined ? [outputPath] : [outputPath, logPath];
}

/** Empties a file that has grown too long. A writer that appends starts again at the beginning, any other leaves a hole. */
async function boundFile(path: string, maxBytes: number): Promise<void> {
  const { size } = await stat(path);
  if (size > maxBytes) await truncate(path, 0);
}

/** nsenter(1) enters the namespace and executes the program: the pid stays the same. */
function inNamespace({ program, args, namespace }: SpawnOptions): {
  program: string;
  args: string[];
} {
  if (namespace === undefined) return { program, args: [...args] };
  return {
    program: 'nsenter',
    args: [`--net=${NETNS_DIRECTORY}/${namespace}`, '--', program, ...args],
  };
}
