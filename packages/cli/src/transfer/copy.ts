import { setTimeout as delay } from 'node:timers/promises';
import {
  encodeRecord,
  failureOf,
  type Omission,
  omissionOf,
  packTree,
  type Received,
  readRecords,
  receivedOf,
  recordsIn,
  TREE_RECORD,
  TreeError,
  unpackTree,
  wholeRecords,
} from '@torpor/agent/file-tree';
import type { ExecSession, Sandbox } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { startFileTreeProgram } from './guest-program.ts';

/** One side of a copy. */
export type Side =
  | { readonly kind: 'local'; readonly path: string }
  | { readonly kind: 'sandbox'; readonly path: string; readonly sandbox: Sandbox };

export interface CopyOptions {
  /** The user in the sandbox who copies. */
  readonly user: string | undefined;
  readonly archive: boolean;
  readonly signal: AbortSignal;
  readonly onOmission: (omission: Omission) => void;
  readonly onBytes: (bytes: number) => void;
}

/** After this long without data the program in the sandbox gives up: the server may have been killed. */
const SILENCE_LIMIT_MS = 60_000;
const KEEPALIVE_INTERVAL_MS = 10_000;
/** How long the program in the sandbox may take to clean up after the copy is aborted. */
const CLEAN_UP_MS = 5_000;
const MAX_MESSAGE_BYTES = 4096;

/**
 * Copies a file, or a directory with its content. Both sides run the same code (`file-tree`
 * of the agent), one here and one in the sandbox, or one in either sandbox. Throws
 * TorporError, or the reason of the signal; then nothing new is left at the destination.
 */
export async function copyTree(from: Side, to: Side, options: CopyOptions): Promise<Received> {
  const over = new AbortController();
  const signal = AbortSignal.any([options.signal, over.signal]);
  const source =
    from.kind === 'local'
      ? packHere(from.path, options)
      : sentBy(from.sandbox, from.path, { ...options, signal });
  const chunks = passedOn(source, { ...options, signal });
  try {
    // Set-id bits of a sandbox's file would give others the rights of its new owner.
    const keepSetId = from.kind === 'local' || options.archive;
    return to.kind === 'local'
      ? await unpackHere(to.path, chunks, keepSetId, options)
      : await receivedBy(to.sandbox, to.path, chunks, keepSetId, options);
  } finally {
    // The source may be waiting for data that never arrives.
    over.abort(new TorporError('conflict', 'The copy has finished.'));
  }
}

async function* packHere(path: string, options: CopyOptions): AsyncGenerator<Buffer, void> {
  try {
    yield* packTree(path, options);
  } catch (error) {
    throw errorHere(error);
  }
}

async function unpackHere(
  destination: string,
  chunks: AsyncIterable<Buffer>,
  keepSetId: boolean,
  { archive, onOmission, signal }: CopyOptions,
): Promise<Received> {
  try {
    return await unpackTree(chunks, { destination, archive, keepSetId, onOmission, signal });
  } catch (error) {
    throw errorHere(error);
  }
}

/** What a sandbox sends, in whole records. */
async function* sentBy(
  sandbox: Sandbox,
  path: string,
  { archive, user, signal }: CopyOptions,
): AsyncGenerator<Buffer, void> {
  await using session = await startFileTreeProgram(sandbox, { role: 'send', path, archive }, user);
  const stop = () => void session[Symbol.asyncDispose]();
  signal.addEventListener('abort', stop);
  try {
    signal.throwIfAborted();
    const said = new Messages();
    for await (const chunk of wholeRecords(stdoutOf(session, said))) {
      for (const { type, body } of recordsIn(chunk)) {
        if (type === TREE_RECORD.failure) throw errorThere(failureOf(body));
      }
      yield chunk;
    }
    await assertSuccess(session, said);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

async function receivedBy(
  sandbox: Sandbox,
  destination: string,
  chunks: AsyncGenerator<Buffer, void>,
  keepSetId: boolean,
  { archive, user, signal, onOmission }: CopyOptions,
): Promise<Received> {
  // Nothing is started in the sandbox until there is something to send.
  const first = await chunks.next();
  await using session = await startFileTreeProgram(
    sandbox,
    { role: 'receive', destination, archive, keepSetId, silenceLimitMs: SILENCE_LIMIT_MS },
    user,
  );
  const { promise: ready, resolve: setReady } = Promise.withResolvers<void>();
  const result = resultOf(session, setReady, onOmission);
  const sent = ready.then(() => sendAll(session, first, chunks));
  using aborted = abortOf(signal);
  try {
    await Promise.race([sent, result, aborted.promise]);
    return await Promise.race([result, aborted.promise]);
  } catch (error) {
    // If its input stops early, the receiver removes what it has created, unless that was complete.
    const end = session.closeStdin().then(() => result);
    const timeout = delay(CLEAN_UP_MS, undefined, { ref: false });
    const complete = await Promise.race([end, timeout]).catch(() => undefined);
    if (complete !== undefined) return complete;
    throw error;
  } finally {
    result.catch(() => undefined);
    sent.catch(() => undefined);
  }
}

/** Writes all chunks, and keepalives while there is nothing to write. */
async function sendAll(
  session: ExecSession,
  first: IteratorResult<Buffer, void>,
  chunks: AsyncGenerator<Buffer, void>,
): Promise<void> {
  for (let next = first; !next.done; ) {
    await session.write(next.value);
    const following = chunks.next();
    while ((await Promise.race([following, nap()])) === 'nap') {
      await session.write(encodeRecord(TREE_RECORD.keepalive));
    }
    next = await following;
  }
  await session.closeStdin();
}

function nap(): Promise<'nap'> {
  return delay(KEEPALIVE_INTERVAL_MS, 'nap', { ref: false });
}

/** The result of the program in the sandbox. Throws TorporError. */
async function resultOf(
  session: ExecSession,
  onReady: () => void,
  onOmission: (omission: Omission) => void,
): Promise<Received> {
  const said = new Messages();
  let received: Received | undefined;
  try {
    for await (const { type, body } of readRecords(stdoutOf(session, said))) {
      if (type === TREE_RECORD.ready) onReady();
      else if (type === TREE_RECORD.omission) onOmission(omissionOf(body));
      else if (type === TREE_RECORD.failure) throw failureOf(body);
      else if (type === TREE_RECORD.received) received = receivedOf(body);
    }
  } catch (error) {
    throw errorThere(error);
  }
  await assertSuccess(session, said);
  if (received !== undefined) return received;
  throw new TorporError(
    'internal_error',
    'The sandbox did not report whether the copy is complete.',
  );
}

/** The beginning of a program's standard error. */
class Messages {
  #text = '';

  add(data: Buffer): void {
    if (this.#text.length < MAX_MESSAGE_BYTES) this.#text += data.toString();
  }

  toString(): string {
    return this.#text.slice(0, MAX_MESSAGE_BYTES).trim();
  }
}

async function* stdoutOf(session: ExecSession, said: Messages): AsyncGenerator<Buffer, void> {
  for await (const { stream, data } of session.output()) {
    if (stream === 'stdout') yield data;
    else said.add(data);
  }
}

async function assertSuccess(session: ExecSession, said: Messages): Promise<void> {
  const { exitCode, error } = await session.wait();
  if (exitCode === 0 && error === undefined) return;
  throw new TorporError(
    'internal_error',
    `The copying program in the sandbox failed (${error ?? `status ${exitCode}`}): ${said}`,
  );
}

/** The chunks until the signal aborts, counted. */
async function* passedOn(
  source: AsyncGenerator<Buffer, void>,
  { signal, onBytes }: CopyOptions,
): AsyncGenerator<Buffer, void> {
  using aborted = abortOf(signal);
  try {
    for (;;) {
      const next = await Promise.race([source.next(), aborted.promise]);
      if (next.done) return;
      onBytes(next.value.length);
      yield next.value;
    }
  } finally {
    // Not awaited: it may be waiting for data that never arrives.
    source.return().catch(() => undefined);
  }
}

/** A promise that rejects with the signal's reason. */
function abortOf(signal: AbortSignal): Disposable & { readonly promise: Promise<never> } {
  const { promise, reject } = Promise.withResolvers<never>();
  promise.catch(() => undefined);
  const abort = () => reject(signal.reason);
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  return { promise, [Symbol.dispose]: () => signal.removeEventListener('abort', abort) };
}

function errorHere(error: unknown): unknown {
  if (!(error instanceof TreeError)) return error;
  return new TorporError(error.code, error.message, {
    cause: error,
    remedy: remedyOf(error, 'this machine'),
  });
}

function errorThere(error: unknown): unknown {
  if (!(error instanceof TreeError)) return error;
  const code = error.code === 'disk_full' ? 'sandbox_disk_full' : error.code;
  return new TorporError(code, `In the sandbox: ${error.message}`, {
    cause: error,
    remedy: remedyOf(error, 'the sandbox'),
  });
}

function remedyOf({ code }: TreeError, place: string): string {
  if (code === 'disk_full') return `Free space in ${place}; nothing of the copy remains there.`;
  return code === 'internal_error' ? 'Copy it again.' : '';
}
