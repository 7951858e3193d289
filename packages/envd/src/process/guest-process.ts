import { Code, ConnectError } from '@connectrpc/connect';
import type { ProcessExit } from '../process-exit.ts';
import { OutputHub } from './output-hub.ts';
import type { OutputKind } from './output-ring.ts';
import { signalSession } from './session-signal.ts';

/** The client's request, as `List` shows it. */
export interface ProcessDescription {
  readonly cmd: string;
  readonly args: readonly string[];
  readonly envs: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
  readonly tag: string | undefined;
  /** No caller waits for it: its exit is listed for a while. */
  readonly detached?: boolean;
}

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/** The connection to a process: pipes or a terminal. */
export interface ProcessChannel {
  readonly pid: number;
  readonly kind: 'pipes' | 'pty';
  setOutputPaused(paused: boolean): void;
  /** Fulfilled when the kernel has taken the bytes. */
  write(bytes: Uint8Array): Promise<void>;
  closeInput(): Promise<void>;
  resize(size: TerminalSize): void;
  /** Releases the channel once the process's end has been reported. */
  release(): void;
}

export interface ChannelEvents {
  onOutput(kind: OutputKind, bytes: Uint8Array): void;
  /** All outputs are at their end: no process has the other side open. */
  onOutputClosed(): void;
  onExit(exit: ProcessExit): void;
}

/**
 * After a process has exited, a descendant may still have its output open. When nothing was
 * written for this long, the end is reported nevertheless.
 */
const ORPHANED_OUTPUT_MS = 500;
/** Input is written in slices, so that at most one is left when a client disconnects. */
const INPUT_SLICE_BYTES = 64 * 1024;

/** A process of the guest and its followers. */
export class GuestProcess {
  readonly description: ProcessDescription;
  readonly output: OutputHub;
  readonly #channel: ProcessChannel;
  readonly #onEnd: (process: GuestProcess) => void;
  #exit: ProcessExit | undefined;
  #outputClosed = false;
  #lastOutputMs = 0;
  #inputTail: Promise<void> = Promise.resolve();

  private constructor(
    description: ProcessDescription,
    open: (events: ChannelEvents) => ProcessChannel,
    onEnd: (process: GuestProcess) => void,
  ) {
    this.description = description;
    this.#onEnd = onEnd;
    this.output = new OutputHub((paused) => this.#channel.setOutputPaused(paused));
    this.#channel = open({
      onOutput: (kind, bytes) => {
        this.#lastOutputMs = performance.now();
        this.output.push({ kind, bytes });
      },
      onOutputClosed: () => {
        this.#outputClosed = true;
        this.#finishIfOver();
      },
      onExit: (exit) => {
        this.#exit = exit;
        this.#lastOutputMs = performance.now();
        this.#finishIfOver();
        this.#watchOrphanedOutput();
      },
    });
  }

  /**
   * @param open Connects the channel's events; called once, before any event.
   * @param onEnd Called once, after the end was queued after the last output.
   */
  static follow(
    description: ProcessDescription,
    open: (events: ChannelEvents) => ProcessChannel,
    onEnd: (process: GuestProcess) => void,
  ): GuestProcess {
    return new GuestProcess(description, open, onEnd);
  }

  get pid(): number {
    return this.#channel.pid;
  }

  get kind(): 'pipes' | 'pty' {
    return this.#channel.kind;
  }

  /** Whether the process itself has exited, even if its output is not at its end. */
  get exited(): boolean {
    return this.#exit !== undefined;
  }

  /**
   * Writes to the process's input, after all earlier writes, and waits until the kernel has
   * accepted it. Throws ConnectError `failed_precondition` if the input is closed or of the
   * other kind.
   */
  writeInput(kind: 'stdin' | 'pty', bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    if ((kind === 'pty') !== (this.kind === 'pty')) {
      throw new ConnectError(
        kind === 'pty'
          ? `process ${this.pid} has no terminal; send stdin`
          : `process ${this.pid} has a terminal; send pty input`,
        Code.FailedPrecondition,
      );
    }
    return this.#enqueueInput(async () => {
      for (let offset = 0; offset < bytes.length; offset += INPUT_SLICE_BYTES) {
        signal.throwIfAborted();
        await this.#channel.write(bytes.subarray(offset, offset + INPUT_SLICE_BYTES));
      }
    });
  }

  /** Closes the standard input after all earlier writes. */
  closeInput(): Promise<void> {
    return this.#enqueueInput(() => this.#channel.closeInput());
  }

  resize(size: TerminalSize): void {
    this.#channel.resize(size);
  }

  /**
   * Signals the process and everything in its session. Does nothing once the process has
   * exited: its pid may have been reused by then.
   */
  signal(signal: number | NodeJS.Signals): void {
    if (!this.exited) signalSession(this.pid, signal);
  }

  #enqueueInput(write: () => Promise<void>): Promise<void> {
    const result = this.#inputTail.then(write);
    this.#inputTail = result.catch(() => undefined);
    return result;
  }

  #finishIfOver(): void {
    if (this.#exit !== undefined && this.#outputClosed) this.#finish(this.#exit);
  }

  #watchOrphanedOutput(): void {
    const exit = this.#exit;
    if (exit === undefined || this.output.end !== undefined) return;
    const quietMs = performance.now() - this.#lastOutputMs;
    if (quietMs >= ORPHANED_OUTPUT_MS && !this.output.paused) {
      this.#finish(exit);
      return;
    }
    // The check after the timer runs after the poll phase: pending data in the pipes has been
    // read by then, however late the timer fires.
    setTimeout(
      () => setImmediate(() => this.#watchOrphanedOutput()),
      ORPHANED_OUTPUT_MS / 4,
    ).unref();
  }

  #finish(exit: ProcessExit): void {
    if (this.output.end !== undefined) return;
    this.output.finish(exit);
    this.#channel.release();
    this.#onEnd(this);
  }
}
