import { isUtf8 } from 'node:buffer';
import { randomBytes } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { type hostAgent, rest, sendStream, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/api-keys.ts';
import { agentCall, type HostClient } from '../hosts/host.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { SandboxService } from '../sandboxes/service.ts';
import { completeUtf8Length } from './text.ts';

const AGENT_CALL_TIMEOUT_MS = 30_000;
/** Beyond the program's own time: for the way there and back. */
const EXEC_MARGIN_MS = 30_000;

type ExecStreamRequest = MessageInitShape<typeof hostAgent.ExecStreamRequestSchema>;
type PtyAttachRequest = MessageInitShape<typeof hostAgent.PtyAttachRequestSchema>;
export type Selector = ReturnType<typeof rest.parseProcessSelector>;

/** Programs in sandboxes. Every method throws what {@link SandboxService.requireRunning} throws, and what the agent says. */
export class GuestProcesses {
  readonly #sandboxes: SandboxService;
  readonly #client: HostClient;
  readonly #metrics: Metrics;

  constructor(sandboxes: SandboxService, client: HostClient, metrics: Metrics) {
    this.#sandboxes = sandboxes;
    this.#client = client;
    this.#metrics = metrics;
  }

  /** Throws what a stream to this sandbox would meet, before it is opened. */
  async requireRunning(principal: Principal, id: string): Promise<void> {
    await this.#sandboxes.requireRunning(principal, id);
  }

  /** Runs a program to its end. It is killed when `signal` aborts: nobody waits for it any more. */
  async exec(
    principal: Principal,
    id: string,
    request: rest.ExecRequest,
    signal: AbortSignal,
  ): Promise<rest.ExecResult> {
    await this.#sandboxes.requireRunning(principal, id);
    this.#metrics.execs.inc({ kind: 'foreground' });
    const started = performance.now();
    const answer = await agentCall(() =>
      this.#client.exec(
        {
          sandboxId: id,
          cmd: request.cmd,
          args: request.args,
          timeoutSec: request.timeout_sec,
          envs: request.envs ?? {},
          cwd: request.cwd ?? '',
          user: request.user ?? '',
          maxOutputBytes: BigInt(rest.MAX_EXEC_OUTPUT_BYTES),
        },
        {
          signal,
          ...(request.timeout_sec === 0
            ? {}
            : { timeoutMs: request.timeout_sec * 1000 + EXEC_MARGIN_MS }),
        },
      ),
    );
    const stdout = trimCut(answer.stdout, answer.stdoutDroppedBytes);
    const stderr = trimCut(answer.stderr, answer.stderrDroppedBytes);
    const encoding = isUtf8(stdout.bytes) && isUtf8(stderr.bytes) ? 'utf-8' : 'base64';
    return {
      sandbox_id: id,
      cmd: request.cmd,
      stdout: Buffer.from(stdout.bytes).toString(encoding),
      stderr: Buffer.from(stderr.bytes).toString(encoding),
      exit_code: answer.exitCode,
      ...(answer.status === '' ? {} : { status: answer.status }),
      duration_ms: Math.round(performance.now() - started),
      encoding,
      truncated: stdout.dropped + stderr.dropped > 0,
      stdout_dropped_bytes: stdout.dropped,
      stderr_dropped_bytes: stderr.dropped,
    };
  }

  /** Starts a program that goes on by itself. */
  async startBackground(
    principal: Principal,
    id: string,
    request: rest.ExecRequest,
  ): Promise<rest.BackgroundExec> {
    await this.#sandboxes.requireRunning(principal, id);
    this.#metrics.execs.inc({ kind: 'background' });
    const answer = await agentCall(() =>
      this.#client.startBackground(
        {
          sandboxId: id,
          cmd: request.cmd,
          args: request.args,
          tag: request.tag ?? `proc-${randomBytes(4).toString('hex')}`,
          envs: request.envs ?? {},
          cwd: request.cwd ?? '',
          user: request.user ?? '',
        },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
    return { sandbox_id: id, cmd: request.cmd, pid: answer.pid, tag: answer.tag };
  }

  /** `all`: also the background programs that have exited. */
  async list(principal: Principal, id: string, all: boolean): Promise<rest.ProcessList> {
    await this.#sandboxes.requireRunning(principal, id);
    const answer = await agentCall(() =>
      this.#client.listProcesses(
        { sandboxId: id, includeExited: all },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
    return {
      processes: answer.processes.map((entry) => ({
        pid: entry.pid,
        ...(entry.tag === '' ? {} : { tag: entry.tag }),
        cmd: entry.cmd,
        args: entry.args,
        ...(entry.end === undefined ? {} : { exit_code: entry.end.exitCode }),
        ...(entry.end === undefined || entry.end.error === '' ? {} : { status: entry.end.error }),
      })),
    };
  }

  async kill(principal: Principal, id: string, selector: Selector, signal: string): Promise<void> {
    await this.#sandboxes.requireRunning(principal, id);
    await this.signal(id, selector, signal);
  }

  /** Like {@link kill}, for a stream that has been let in already. */
  async signal(id: string, selector: Selector, signal: string): Promise<void> {
    await agentCall(() =>
      this.#client.killProcess(
        { sandboxId: id, selector, signal },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
  }

  execStream(request: ExecStreamRequest, signal: AbortSignal) {
    this.#metrics.execs.inc({ kind: 'stream' });
    return this.#client.execStream(request, { signal });
  }

  connect(id: string, selector: Selector, signal: AbortSignal) {
    return this.#client.connectProcess({ sandboxId: id, selector }, { signal });
  }

  async sendInput(id: string, selector: Selector, data: Uint8Array, end: boolean): Promise<void> {
    await agentCall(() =>
      this.#client.sendProcessInput(
        { sandboxId: id, selector, data, end },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
  }

  /** Input as fast as the process takes it. `close` is the last piece, and closes its standard input. */
  async streamInput(
    id: string,
    selector: Selector,
    pieces: AsyncIterable<Uint8Array | 'close'>,
    signal: AbortSignal,
  ): Promise<void> {
    await agentCall(() =>
      sendStream(inputMessages(id, selector, pieces), (messages) =>
        this.#client.streamProcessInput(messages, { signal }),
      ),
    );
  }

  attachPty(request: PtyAttachRequest, signal: AbortSignal) {
    if (request.cmd !== undefined && request.cmd !== '') this.#metrics.execs.inc({ kind: 'pty' });
    return this.#client.ptyAttach(request, { signal });
  }

  async sendPtyInput(id: string, tag: string, data: Uint8Array): Promise<void> {
    await agentCall(() =>
      this.#client.ptySendInput({ sandboxId: id, tag, data }, { timeoutMs: AGENT_CALL_TIMEOUT_MS }),
    );
  }

  async resizePty(id: string, tag: string, cols: number, rows: number): Promise<void> {
    await agentCall(() =>
      this.#client.ptyResize(
        { sandboxId: id, tag, cols, rows },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
  }

  async killPty(id: string, tag: string): Promise<void> {
    await agentCall(() =>
      this.#client.ptyKill({ sandboxId: id, tag }, { timeoutMs: AGENT_CALL_TIMEOUT_MS }),
    );
  }
}

async function* inputMessages(
  sandboxId: string,
  selector: Selector,
  pieces: AsyncIterable<Uint8Array | 'close'>,
): AsyncGenerator<MessageInitShape<typeof hostAgent.StreamProcessInputRequestSchema>> {
  yield { content: { case: 'start', value: { sandboxId, selector } } };
  for await (const piece of pieces) {
    yield piece === 'close'
      ? { content: { case: 'close', value: {} } }
      : { content: { case: 'data', value: piece } };
  }
}

/** Output that was cut may end inside a character; that half counts as dropped, or the rest would not be text any more. */
function trimCut(bytes: Uint8Array, dropped: bigint): { bytes: Uint8Array; dropped: number } {
  if (dropped === 0n) return { bytes, dropped: 0 };
  const length = completeUtf8Length(bytes);
  return { bytes: bytes.subarray(0, length), dropped: Number(dropped) + bytes.length - length };
}

/** The process that a path names. Throws `invalid_request` for what is neither a pid nor a tag. */
export function selectProcess(selector: string): Selector {
  const parsed = rest.parseProcessSelector(selector);
  if (parsed.case === 'pid' || /^[A-Za-z0-9_.-]{1,64}$/.test(parsed.value)) return parsed;
  throw new TorporError('invalid_request', 'The selector is neither a pid nor a tag.');
}
