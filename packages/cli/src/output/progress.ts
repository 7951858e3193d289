import type { Progress } from '@torpor/agent';
import { formatBytes } from '@torpor/sdk/basics';
import { type Io, line } from '../io.ts';

const REDRAW_INTERVAL_MS = 100;

/**
 * One line on standard error with the progress of a transfer. Silent if
 * standard error is not a terminal.
 */
export class TransferProgress implements Disposable {
  readonly #io: Io;
  readonly #label: string;
  readonly #totalBytes: number | undefined;
  readonly #startedAt = Date.now();
  readonly #enabled: boolean;
  #bytes = 0;
  #drawnAt = 0;

  constructor(io: Io, label: string, totalBytes: number | undefined, enabled: boolean) {
    this.#io = io;
    this.#label = label;
    this.#totalBytes = totalBytes;
    this.#enabled = enabled && io.stderr.isTTY === true;
  }

  get bytes(): number {
    return this.#bytes;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    const now = Date.now();
    if (!this.#enabled || now - this.#drawnAt < REDRAW_INTERVAL_MS) return;
    this.#drawnAt = now;
    this.#draw();
  }

  [Symbol.dispose](): void {
    if (!this.#enabled) return;
    this.#draw();
    this.#io.stderr.write('\n');
  }

  #draw(): void {
    const seconds = Math.max(0.001, (Date.now() - this.#startedAt) / 1000);
    const rate = `${formatBytes(this.#bytes / seconds)}/s`;
    const done = formatBytes(this.#bytes);
    const total = this.#totalBytes;
    const part =
      total === undefined || total === 0
        ? done
        : `${done} of ${formatBytes(total)} (${Math.floor((100 * this.#bytes) / total)} %)`;
    this.#io.stderr.write(`\r\x1b[K${this.#label}: ${part}, ${rate}`);
  }
}

/** Prints what is happening on standard error, for people who wait. */
export function printStatus(io: Io, text: string): void {
  void line(io.stderr, `torpor: ${text}`).catch(() => undefined);
}

/** Prints what is being made or downloaded. */
export function progressStatus(io: Io): (progress: Progress) => void {
  return ({ artifact, message }) => printStatus(io, `${artifact}: ${message}`);
}
