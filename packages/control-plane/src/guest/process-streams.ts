import { randomBytes } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { type hostAgent, sendStream } from '@torpor/protocol';
import type { HostConnection } from '../hosts/connection.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { ExecKind } from './exec-audit.ts';
import {
  type ProcessEvent,
  processEvents,
  type TerminalEvent,
  terminalEvents,
} from './process-events.ts';
import { type ProcessSelector, type Program, programMessage, timeoutMessage } from './program.ts';

const CALL_OPTIONS = { timeoutMs: 30_000 } as const;

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

interface StreamParts {
  readonly sandboxId: string;
  readonly host: HostConnection;
  readonly metrics: Metrics;
  /** Called before a program is started. */
  readonly recordExec: (kind: ExecKind, program: Program) => Promise<void>;
}

/** The programs and terminals of one sandbox, for a stream that has been admitted. Throws the agent's errors. */
export class ProcessStreams {
  readonly #sandboxId: string;
  readonly #host: HostConnection;
  readonly #metrics: Metrics;
  readonly #recordExec: StreamParts['recordExec'];

  constructor({ sandboxId, host, metrics, recordExec }: StreamParts) {
    this.#sandboxId = sandboxId;
    this.#host = host;
    this.#metrics = metrics;
    this.#recordExec = recordExec;
  }

  /** Starts a program whose events are followed. `timeoutSec`: 0 means no limit. */
  async *start(
    program: Program,
    options: { readonly timeoutSec: number; readonly stdin: boolean; readonly tag?: string },
    signal: AbortSignal,
  ): AsyncGenerator<ProcessEvent, void> {
    await this.#recordExec('stream', program);
    this.#metrics.execs.inc({ kind: 'stream' });
    const { timeoutSec, ...rest } = options;
    const message = {
      ...programMessage(program),
      ...timeoutMessage(timeoutSec),
      ...rest,
      sandboxId: this.#sandboxId,
    };
    yield* processEvents(this.#host.stream((client) => client.execStream(message, { signal })));
  }

  /** Follows the events of a running process. */
  connect(selector: ProcessSelector, signal: AbortSignal): AsyncIterable<ProcessEvent> {
    const message = { sandboxId: this.#sandboxId, selector };
    return processEvents(this.#host.stream((client) => client.connectProcess(message, { signal })));
  }

  /** Sends a signal, by name or number, to a process and its session. */
  async kill(selector: ProcessSelector, signal: string): Promise<void> {
    await this.#host.call((client) =>
      client.killProcess({ sandboxId: this.#sandboxId, selector, signal }, CALL_OPTIONS),
    );
  }

  /** `end`: close the standard input after `data`. */
  async sendInput(selector: ProcessSelector, data: Uint8Array, end: boolean): Promise<void> {
    const message = { sandboxId: this.#sandboxId, selector, data, end };
    await this.#host.call((client) => client.sendProcessInput(message, CALL_OPTIONS));
  }

  /** Sends input as fast as the process reads it. `close` is the last piece, and closes its standard input. */
  async streamInput(
    selector: ProcessSelector,
    pieces: AsyncIterable<Uint8Array | 'close'>,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#host.call((client) =>
      sendStream(inputMessages(this.#sandboxId, selector, pieces), (messages) =>
        client.streamProcessInput(messages, { signal }),
      ),
    );
  }

  /** Starts a program on a new terminal with its own tag. */
  async *startTerminal(
    program: Program,
    { cols, rows }: TerminalSize,
    signal: AbortSignal,
  ): AsyncGenerator<TerminalEvent, void> {
    await this.#recordExec('terminal', program);
    this.#metrics.execs.inc({ kind: 'pty' });
    const tag = `pty-${randomBytes(4).toString('hex')}`;
    const message = { ...programMessage(program), cols, rows, sandboxId: this.#sandboxId, tag };
    yield* terminalEvents(this.#host.stream((client) => client.ptyAttach(message, { signal })));
  }

  /** Follows an existing terminal. */
  connectTerminal(tag: string, signal: AbortSignal): AsyncIterable<TerminalEvent> {
    const message = { sandboxId: this.#sandboxId, tag };
    return terminalEvents(this.#host.stream((client) => client.ptyAttach(message, { signal })));
  }

  async sendTerminalInput(tag: string, data: Uint8Array): Promise<void> {
    const message = { sandboxId: this.#sandboxId, tag, data };
    await this.#host.call((client) => client.ptySendInput(message, CALL_OPTIONS));
  }

  async resizeTerminal(tag: string, { cols, rows }: TerminalSize): Promise<void> {
    const message = { sandboxId: this.#sandboxId, tag, cols, rows };
    await this.#host.call((client) => client.ptyResize(message, CALL_OPTIONS));
  }

  async killTerminal(tag: string): Promise<void> {
    const message = { sandboxId: this.#sandboxId, tag };
    await this.#host.call((client) => client.ptyKill(message, CALL_OPTIONS));
  }
}

async function* inputMessages(
  sandboxId: string,
  selector: ProcessSelector,
  pieces: AsyncIterable<Uint8Array | 'close'>,
): AsyncGenerator<MessageInitShape<typeof hostAgent.StreamProcessInputRequestSchema>> {
  yield { content: { case: 'start', value: { sandboxId, selector } } };
  for await (const piece of pieces) {
    yield piece === 'close'
      ? { content: { case: 'close', value: {} } }
      : { content: { case: 'data', value: piece } };
  }
}
