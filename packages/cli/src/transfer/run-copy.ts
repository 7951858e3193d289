import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Received } from '@torpor/agent/file-tree';
import type { Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import type { CliContext } from '../cli-context.ts';
import { findSandbox } from '../client/find-sandbox.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT, exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, json, line } from '../io.ts';
import { TransferProgress } from '../output/progress.ts';
import type { TerminationSignal } from '../termination-signals.ts';
import { type CopyOptions, copyTree, type Side } from './copy.ts';
import { type Endpoint, formatEndpoint, type Transfer } from './endpoint.ts';
import { Omissions } from './omissions.ts';

export interface CpOptions extends CommonOptions {
  readonly user?: string;
  readonly archive?: boolean;
  readonly verify?: boolean;
}

/** `torpor cp`. Returns the exit status. */
export async function runCopy(
  { io }: CliContext,
  torpor: Torpor,
  transfer: Transfer,
  options: CpOptions,
): Promise<number> {
  const from = await sideOf(torpor, transfer.from);
  const to = await sideOf(torpor, transfer.to);
  const user = options.user ?? (options.archive ? 'root' : undefined);
  const omissions = new Omissions();
  const interrupt = new AbortController();
  let signalled: TerminationSignal | undefined;
  const unsubscribe = io.onSignal((signal) => {
    signalled ??= signal;
    interrupt.abort(
      new TorporError('conflict', 'The copy was interrupted; nothing of it remains.'),
    );
  });
  try {
    if (options.verify) await assertCanBeReadAgain(from);
    const received = await copyWithProgress(io, from, to, options.json === true, {
      user,
      archive: options.archive === true,
      signal: interrupt.signal,
      onOmission: (omission) => omissions.add(omission),
    });
    if (options.verify && received.kind !== 'file') {
      throw new TorporError(
        'invalid_request',
        '--verify compares files only; the copy is complete.',
      );
    }
    const verified = options.verify
      ? await verify(from, { ...to, path: received.to }, { user, signal: interrupt.signal })
      : {};
    const result = {
      from: transfer.from.path,
      to: received.to,
      bytes: received.bytes,
      ...verified,
      ...(omissions.total === 0 ? {} : { omitted: omissions.named }),
    };
    if (options.json) await json(io, result);
    await omissions.report(io, formatEndpoint(transfer.from));
    return omissions.total === 0 ? EXIT.ok : EXIT.failure;
  } catch (error) {
    if (signalled === undefined || !interrupt.signal.aborted) throw error;
    await line(io.stderr, `torpor: ${interrupt.signal.reason.message}`);
    return exitCodeOfSignal(signalled);
  } finally {
    unsubscribe();
  }
}

async function sideOf(torpor: Torpor, endpoint: Endpoint): Promise<Side> {
  if (endpoint.kind === 'local') return endpoint;
  const { id, path } = endpoint;
  return { kind: 'sandbox', path, sandbox: await findSandbox(torpor, id) };
}

/** A FIFO or a terminal cannot be read again. Whether a sandbox's path is a file is known only after the copy. */
async function assertCanBeReadAgain(from: Side): Promise<void> {
  const found = from.kind === 'local' ? await stat(from.path).catch(() => undefined) : undefined;
  if (found === undefined || found.isFile() || found.isDirectory()) return;
  throw new TorporError(
    'invalid_request',
    `--verify compares files only; ${from.path} is not a file.`,
  );
}

/** Copies, and shows the progress on a terminal. */
async function copyWithProgress(
  io: Io,
  from: Side,
  to: Side,
  quiet: boolean,
  options: Omit<CopyOptions, 'onBytes'>,
): Promise<Received> {
  // The size is known only for a local file.
  const found = from.kind === 'local' ? await stat(from.path).catch(() => undefined) : undefined;
  const total = found?.isFile() ? found.size : undefined;
  using progress = new TransferProgress(io, basename(from.path), total, !quiet);
  return await copyTree(from, to, { ...options, onBytes: (bytes) => progress.add(bytes) });
}

interface ChecksumOptions {
  readonly user: string | undefined;
  readonly signal: AbortSignal;
}

/** Compares the file on both sides by its checksum. Throws unless they are the same. */
async function verify(
  from: Side,
  to: Side,
  options: ChecksumOptions,
): Promise<{ readonly sha256: string }> {
  const [before, after] = await Promise.all([checksum(from, options), checksum(to, options)]);
  if (before !== after) {
    throw new TorporError('internal_error', `${from.path} and ${to.path} differ after the copy.`, {
      remedy: 'Copy it again; something else may be writing to it.',
    });
  }
  return { sha256: after };
}

async function checksum(side: Side, { user, signal }: ChecksumOptions): Promise<string> {
  if (side.kind === 'local') {
    const hash = createHash('sha256');
    await pipeline(createReadStream(side.path), hash, { signal });
    return hash.digest('hex');
  }
  const { stdout, stderr, exitCode } = await side.sandbox.exec(
    'sha256sum',
    ['-b', '--', side.path],
    { user, timeoutMs: 0, signal },
  );
  if (exitCode !== 0) {
    throw new TorporError('internal_error', `sha256sum failed in the sandbox: ${stderr.trim()}`, {
      remedy: 'The copy is complete, but was not compared.',
    });
  }
  return stdout.replace(/^\\/, '').slice(0, 64);
}
