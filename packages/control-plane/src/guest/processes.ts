import { randomBytes } from 'node:crypto';
import type { Principal } from '../auth/principal.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { GuestAccess } from './access.ts';
import type { ExecAudit } from './exec-audit.ts';
import { type Exit, exitOf } from './process-events.ts';
import { ProcessStreams } from './process-streams.ts';
import { type ProcessSelector, type Program, programMessage, timeoutMessage } from './program.ts';

const AGENT_CALL_TIMEOUT_MS = 30_000;
/** Added to the program's own timeout, for the round trip. */
const EXEC_MARGIN_MS = 30_000;

export interface ExecOptions {
  /** The program is killed after it; 0 means no limit. */
  readonly timeoutSec: number;
  /** Limit for each of the two streams; what exceeds it is dropped and counted. */
  readonly maxOutputBytes: number;
}

/** What a program printed, and how it exited. */
export interface ExecOutcome extends Exit {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly stdoutDroppedBytes: number;
  readonly stderrDroppedBytes: number;
  readonly durationMs: number;
}

export interface ProcessEntry {
  readonly pid: number;
  readonly tag?: string;
  readonly cmd: string;
  readonly args: readonly string[];
  /** Set once it has exited. */
  readonly end?: Exit;
}

/** Programs in sandboxes. Every method throws what {@link GuestAccess.host} throws, and the agent's errors. */
export class GuestProcesses {
  readonly #access: GuestAccess;
  readonly #metrics: Metrics;
  readonly #audit: ExecAudit;

  constructor(access: GuestAccess, metrics: Metrics, audit: ExecAudit) {
    this.#access = access;
    this.#metrics = metrics;
    this.#audit = audit;
  }

  /** Runs a program until it exits. It is killed when `signal` aborts, because its caller no longer waits. */
  async exec(
    principal: Principal,
    id: string,
    program: Program,
    { timeoutSec, maxOutputBytes }: ExecOptions,
    signal: AbortSignal,
  ): Promise<ExecOutcome> {
    const host = await this.#access.host(principal, id);
    await this.#audit.record(principal, id, 'foreground', program);
    this.#metrics.execs.inc({ kind: 'foreground' });
    const started = performance.now();
    const response = await host.call((client) =>
      client.exec(
        {
          ...programMessage(program),
          sandboxId: id,
          ...timeoutMessage(timeoutSec),
          maxOutputBytes: BigInt(maxOutputBytes),
        },
        { signal, ...(timeoutSec === 0 ? {} : { timeoutMs: timeoutSec * 1000 + EXEC_MARGIN_MS }) },
      ),
    );
    const { stdout, stderr, exitCode, status } = response;
    return {
      stdout,
      stderr,
      stdoutDroppedBytes: Number(response.stdoutDroppedBytes),
      stderrDroppedBytes: Number(response.stderrDroppedBytes),
      exitCode,
      ...(status === undefined ? {} : { status }),
      durationMs: performance.now() - started,
    };
  }

  /** Starts a program that keeps running in the background. A tag is generated if omitted. */
  async startBackground(
    principal: Principal,
    id: string,
    program: Program,
    tag = `proc-${randomBytes(4).toString('hex')}`,
  ): Promise<{ readonly pid: number; readonly tag: string }> {
    const host = await this.#access.host(principal, id);
    await this.#audit.record(principal, id, 'background', program);
    this.#metrics.execs.inc({ kind: 'background' });
    return host.call((client) =>
      client.startBackground(
        { ...programMessage(program), sandboxId: id, tag },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
  }

  /** `includeExited`: also the background programs that exited last. */
  async list(
    principal: Principal,
    id: string,
    options: { readonly includeExited: boolean },
  ): Promise<readonly ProcessEntry[]> {
    const host = await this.#access.host(principal, id);
    const { processes } = await host.call((client) =>
      client.listProcesses({ sandboxId: id, ...options }, { timeoutMs: AGENT_CALL_TIMEOUT_MS }),
    );
    return processes.map(({ pid, tag, cmd, args, end }) => ({
      pid,
      ...(tag === undefined ? {} : { tag }),
      cmd,
      args,
      ...(end === undefined ? {} : { end: exitOf(end) }),
    }));
  }

  /** Sends a signal, by name or number, to a process and its session. */
  async kill(
    principal: Principal,
    id: string,
    selector: ProcessSelector,
    signal: string,
  ): Promise<void> {
    await (await this.open(principal, id)).kill(selector, signal);
  }

  /** Admits a stream to a sandbox. */
  async open(principal: Principal, id: string): Promise<ProcessStreams> {
    return new ProcessStreams({
      sandboxId: id,
      host: await this.#access.host(principal, id),
      metrics: this.#metrics,
      recordExec: (kind, program) => this.#audit.record(principal, id, kind, program),
    });
  }
}
