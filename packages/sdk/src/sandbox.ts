import { TorporError } from '@torpor/protocol/basics';
import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import { Files } from './files.ts';
import type { Connection, CreateOptions } from './http/connection.ts';
import { torporError } from './http/errors.ts';
import { IDLE_TIMEOUT_NAMES, withSdkNames } from './http/field-names.ts';
import { Processes } from './processes.ts';
import { ExecSession } from './streams/exec-session.ts';
import { PtySession, type TerminalSize } from './streams/pty-session.ts';
import { seconds } from './units.ts';

export interface CommandOptions {
  /** Environment variables of the program, in addition to those of the sandbox. */
  readonly envs?: Record<string, string> | undefined;
  /** Working directory. The default is the home directory of the user. */
  readonly cwd?: string | undefined;
  /** The user to run as, or `user:group`, by name or number; a number needs no account. The default is `user`. */
  readonly user?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ExecOptions extends CommandOptions {
  /** Time after which the process is killed, rounded up to whole seconds; 0 means no limit. The default is 30 000. */
  readonly timeoutMs?: number | undefined;
}

export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  /** Standard output as bytes, for output that is not UTF-8. */
  readonly stdoutBytes: Buffer;
  readonly stderrBytes: Buffer;
  readonly exitCode: number;
  /** The signal, if one terminated it: `signal: killed`. */
  readonly status?: string;
  readonly durationMs: number;
  /** Whether output beyond the limit (4 MiB per stream) was dropped. */
  readonly truncated: boolean;
}

export interface ExecStreamOptions extends CommandOptions {
  /** Time after which the process is killed, rounded up to whole seconds; 0, the default, means no limit. */
  readonly timeoutMs?: number | undefined;
  /** Keep standard input open for `write`. The default is false: standard input is empty. */
  readonly stdin?: boolean | undefined;
  /** A name to find the process by. */
  readonly tag?: string | undefined;
  /** Send input and output as bytes instead of text, which is faster for large amounts. The default is false. */
  readonly binary?: boolean | undefined;
}

export interface PtyOptions extends CommandOptions {
  /** The program to run. The default is `/bin/bash`. */
  readonly cmd?: string | undefined;
  readonly args?: readonly string[] | undefined;
  /** Size of the terminal. The default is 80 columns and 24 rows. */
  readonly size?: TerminalSize | undefined;
}

export interface PauseOptions {
  /** Fail with `invalid_state` if it is already paused. The default is false. */
  readonly strict?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ResumeOptions {
  /** A new idle timeout, rounded up to whole seconds. A sandbox that is already running keeps its own. */
  readonly idleTimeoutMs?: number | undefined;
  /** Fail with `invalid_state` if it is already running. The default is false. */
  readonly strict?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ForkOptions extends CreateOptions {
  /** Idle timeout of the copies, rounded up to whole seconds; 0 means never. The default is that of the source. */
  readonly idleTimeoutMs?: number | undefined;
}

/** The copies that were made, and the errors of those that could not be made. */
export interface Forked {
  readonly sandboxes: readonly Sandbox[];
  readonly errors: readonly TorporError[];
  readonly timings: rest.ForkResult['timings'];
}

/** The properties of a sandbox, as the API returns them. */
export type SandboxInfo = rest.Sandbox;

/** A sandbox. `await using` destroys it at the end of the block. */
export class Sandbox implements AsyncDisposable {
  readonly id: string;
  readonly files: Files;
  readonly processes: Processes;
  readonly #connection: Connection;
  readonly #path: string;
  #info: SandboxInfo;

  constructor(connection: Connection, info: SandboxInfo) {
    this.id = info.id;
    this.#connection = connection;
    this.#info = info;
    this.#path = `/v1/sandboxes/${encodeURIComponent(info.id)}`;
    this.files = new Files(connection, this.#path);
    this.processes = new Processes(connection, this.#path);
  }

  /** The sandbox as the API last returned it; {@link refresh} fetches it again. */
  get info(): SandboxInfo {
    return this.#info;
  }

  async refresh(signal?: AbortSignal): Promise<SandboxInfo> {
    this.#info = await this.#connection.json('GET', this.#path, rest.sandboxSchema, { signal });
    return this.#info;
  }

  /**
   * Pauses the sandbox: keeps its memory and disk and frees everything else until {@link resume}.
   * The result has the `timings` of the phases, unless the sandbox was already paused.
   */
  async pause(options: PauseOptions = {}): Promise<SandboxInfo> {
    return this.#enter('paused', options.strict === true, options.signal, () =>
      this.#connection.json('POST', `${this.#path}/pause`, rest.sandboxSchema, {
        signal: options.signal,
      }),
    );
  }

  /**
   * Resumes the sandbox from where it was paused. A sandbox that is already running is left as
   * it is; asking for an idle timeout other than its own is then an error (`invalid_state`).
   */
  async resume(options: ResumeOptions = {}): Promise<SandboxInfo> {
    const timeoutSec = seconds(options.idleTimeoutMs);
    const body: z.input<typeof rest.resumeSandboxSchema> = { timeout_sec: timeoutSec };
    const strict =
      options.strict === true ||
      (timeoutSec !== undefined && timeoutSec !== this.#info.timeout_sec);
    return this.#enter('running', strict, options.signal, () =>
      withSdkNames(
        this.#connection.json('POST', `${this.#path}/resume`, rest.sandboxSchema, {
          json: body,
          signal: options.signal,
        }),
        IDLE_TIMEOUT_NAMES,
      ),
    );
  }

  /** Makes copies of the sandbox as it is now, which keeps running. If one copy cannot be made, the others still are. */
  async fork(count = 1, options: ForkOptions = {}): Promise<Forked> {
    const body: z.input<typeof rest.forkSandboxSchema> = {
      count,
      timeout_sec: seconds(options.idleTimeoutMs),
    };
    const path = `${this.#path}/fork`;
    const { children, timings } = await withSdkNames(
      this.#connection.create(path, rest.forkResultSchema, {
        json: body,
        idempotencyKey: options.idempotencyKey,
        signal: options.signal,
      }),
      IDLE_TIMEOUT_NAMES,
    );
    return {
      sandboxes: children.flatMap(({ sandbox }) =>
        sandbox === undefined ? [] : [new Sandbox(this.#connection, sandbox)],
      ),
      errors: children.flatMap(({ error }) =>
        error === undefined ? [] : [torporError(error.code, error.message)],
      ),
      timings,
    };
  }

  /** Runs a program until it exits, and returns its output. An exit status other than 0 is a result, not an error. */
  async exec(
    cmd: string,
    args: readonly string[] = [],
    options: ExecOptions = {},
  ): Promise<ExecResult> {
    const body: z.input<typeof rest.execRequestSchema> = {
      ...commandBody(cmd, args, options),
      timeout_sec: seconds(options.timeoutMs),
    };
    const result = await withSdkNames(
      this.#connection.json('POST', `${this.#path}/exec`, rest.execResultSchema, {
        json: body,
        signal: options.signal,
      }),
    );
    const encoding = result.encoding === 'base64' ? 'base64' : 'utf8';
    const stdoutBytes = Buffer.from(result.stdout, encoding);
    const stderrBytes = Buffer.from(result.stderr, encoding);
    return {
      stdout: stdoutBytes.toString(),
      stderr: stderrBytes.toString(),
      stdoutBytes,
      stderrBytes,
      exitCode: result.exit_code,
      ...(result.status === undefined ? {} : { status: result.status }),
      durationMs: result.duration_ms,
      truncated: result.truncated,
    };
  }

  /** Starts a program in the background and returns at once; it keeps running when this client disconnects. */
  async start(
    cmd: string,
    args: readonly string[] = [],
    options: CommandOptions & { readonly tag?: string | undefined } = {},
  ): Promise<{ pid: number; tag: string }> {
    const body: z.input<typeof rest.execRequestSchema> = {
      ...commandBody(cmd, args, options),
      background: true,
      tag: options.tag,
    };
    const { pid, tag } = await withSdkNames(
      this.#connection.json('POST', `${this.#path}/exec`, rest.backgroundExecSchema, {
        json: body,
        signal: options.signal,
      }),
    );
    return { pid, tag };
  }

  /** Starts a program with its output, and with `stdin` its input, attached. Disposing the session kills it. */
  execStream(
    cmd: string,
    args: readonly string[] = [],
    options: ExecStreamOptions = {},
  ): Promise<ExecSession> {
    const session = ExecSession.open(
      this.#connection,
      `${this.#path}/exec/stream`,
      {
        type: 'start',
        ...commandBody(cmd, args, options),
        timeout_sec: seconds(options.timeoutMs),
        stdin: options.stdin,
        tag: options.tag,
        binary: options.binary,
      },
      options.signal,
    );
    return withSdkNames(session);
  }

  /** Starts a program on a terminal. */
  pty(options: PtyOptions = {}): Promise<PtySession> {
    const session = PtySession.open(
      this.#connection,
      `${this.#path}/pty`,
      {
        type: 'start',
        cmd: options.cmd,
        args: options.args === undefined ? undefined : [...options.args],
        cols: options.size?.cols,
        rows: options.size?.rows,
        envs: options.envs,
        cwd: options.cwd,
        user: options.user,
      },
      options.signal,
    );
    return withSdkNames(session);
  }

  /** Attaches to an existing terminal. */
  connectPty(tag: string, signal?: AbortSignal): Promise<PtySession> {
    return withSdkNames(
      PtySession.open(this.#connection, `${this.#path}/pty`, { type: 'connect', tag }, signal),
    );
  }

  /** The last bytes that the kernel and init printed on the serial console; everything that is kept by default. */
  async console(
    options: { readonly maxBytes?: number | undefined; readonly signal?: AbortSignal } = {},
  ): Promise<Buffer> {
    const stream = await withSdkNames(
      this.#connection.stream('GET', `${this.#path}/console`, {
        query: { max_bytes: options.maxBytes },
        signal: options.signal,
      }),
    );
    return Buffer.concat(await stream.toArray());
  }

  /** Destroys the sandbox and removes everything that it wrote. */
  async destroy(signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', this.#path, { signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy();
  }

  /** Makes the API change its state. The API refuses if it is already in that state; unless `strict`, that is a success. */
  async #enter(
    status: SandboxInfo['status'],
    strict: boolean,
    signal: AbortSignal | undefined,
    act: () => Promise<SandboxInfo>,
  ): Promise<SandboxInfo> {
    try {
      this.#info = await act();
    } catch (error) {
      if (strict || !(error instanceof TorporError) || error.code !== 'invalid_state') throw error;
      if ((await this.refresh(signal)).status !== status) throw error;
    }
    return this.#info;
  }
}

function commandBody(cmd: string, args: readonly string[], options: CommandOptions) {
  return { cmd, args: [...args], envs: options.envs, cwd: options.cwd, user: options.user };
}
