import { TorporError } from '@torpor/protocol';
import type { GuestClient } from './guest-client.ts';
import { OutputCapture } from './output-capture.ts';
import {
  type ProcessEvent,
  type ProgramRequest,
  programEnd,
  startProgram,
} from './process-events.ts';
import { Supervision } from './supervision.ts';

/** The default of how much of each output stream is kept. */
export const DEFAULT_MAX_OUTPUT_BYTES = 8 * 1024 * 1024;

export interface ExecLimits {
  /** No limit if undefined. */
  readonly timeoutMs: number | undefined;
  readonly maxOutputBytes: number;
}

export interface ExecResult {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly exitCode: number;
  /** See the `error` of {@link programEnd}. */
  readonly status?: string | undefined;
  readonly stdoutDroppedBytes: bigint;
  readonly stderrDroppedBytes: bigint;
  /** The program was killed at its time limit; the output is what it printed until then. */
  readonly timedOut: boolean;
}

/**
 * Runs a program until it exits and returns its output. At the time limit the whole process
 * group is killed, and the result says so. When the caller's signal aborts, it is killed as
 * well: no other caller can get its output.
 */
export async function exec(
  guest: GuestClient,
  request: ProgramRequest,
  limits: ExecLimits,
): Promise<ExecResult> {
  const stdout = new OutputCapture(limits.maxOutputBytes);
  const stderr = new OutputCapture(limits.maxOutputBytes);
  using supervision = new Supervision(guest, limits.timeoutMs);
  const abandon = () => supervision.kill();
  request.signal?.addEventListener('abort', abandon);
  if (request.signal?.aborted) abandon();
  let end: Extract<ProcessEvent, { case: 'end' }>['value'] | undefined;
  try {
    for await (const event of startProgram(guest, { ...request, signal: supervision.signal })) {
      if (event.case === 'start') supervision.started(event.value.pid);
      if (event.case === 'data' && event.value.output.case === 'stdout')
        stdout.add(event.value.output.value);
      if (event.case === 'data' && event.value.output.case === 'stderr')
        stderr.add(event.value.output.value);
      if (event.case === 'end') end = event.value;
    }
  } catch (error) {
    if (!supervision.timedOut) throw error;
  } finally {
    request.signal?.removeEventListener('abort', abandon);
  }
  if (end === undefined && !supervision.timedOut) throw missingEnd(guest);
  return {
    stdout: stdout.bytes(),
    stderr: stderr.bytes(),
    exitCode: end?.exitCode ?? -1,
    status: end === undefined ? undefined : programEnd(end).error,
    stdoutDroppedBytes: stdout.droppedBytes,
    stderrDroppedBytes: stderr.droppedBytes,
    timedOut: supervision.timedOut,
  };
}

/**
 * Runs a program and yields its events. The consumer may disconnect (`request.signal`, or by
 * stopping the iteration): the program keeps running and can be connected to by its pid, and
 * its time limit still applies. Throws `timeout` when it was killed at that limit.
 */
export async function* execStream(
  guest: GuestClient,
  request: ProgramRequest,
  timeoutMs: number | undefined,
): AsyncGenerator<ProcessEvent> {
  const supervision = new Supervision(guest, timeoutMs);
  const events = startProgram(guest, { ...request, signal: supervision.signal });
  let exited = false;
  try {
    for (;;) {
      const next = await untilAborted(events.next(), request.signal);
      if (next === undefined) return;
      if (next.done) break;
      if (next.value.case === 'start') supervision.started(next.value.value.pid);
      if (next.value.case === 'end') {
        exited = true;
        if (supervision.timedOut) throw supervision.timeoutError();
      }
      yield next.value;
    }
    if (!exited) throw missingEnd(guest);
  } catch (error) {
    exited = true;
    throw supervision.timedOut ? supervision.timeoutError() : error;
  } finally {
    if (exited || !supervision.hasLimit) {
      supervision.detach();
      supervision[Symbol.dispose]();
    } else {
      void drain(events, supervision);
    }
  }
}

/** Follows a program whose caller has disconnected, until it exits or its time limit passes. */
async function drain(events: AsyncIterable<ProcessEvent>, supervision: Supervision): Promise<void> {
  try {
    for await (const event of events) {
      if (event.case === 'start') supervision.started(event.value.pid);
    }
  } catch {
    // The guest has stopped or the time limit has passed; there is no caller left to report to.
  } finally {
    supervision[Symbol.dispose]();
  }
}

/** The value of a promise, or undefined if the signal aborts first. */
async function untilAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T | undefined> {
  if (signal === undefined) return promise;
  const { promise: aborted, resolve } = Promise.withResolvers<undefined>();
  const stop = () => resolve(undefined);
  signal.addEventListener('abort', stop);
  if (signal.aborted) stop();
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
    promise.catch(() => undefined);
  }
}

function missingEnd(guest: GuestClient): TorporError {
  return new TorporError(
    'guest_unreachable',
    `The guest of sandbox ${guest.sandboxId} closed the stream without the exit status of the program.`,
  );
}
