import { type ChildProcess, spawn } from 'node:child_process';
import { homedir } from 'node:os';
import { widenPipe } from '@torpor/linux';
import { TreeError, treeError } from './errors.ts';
import { packTree } from './pack.ts';
import type { FileTreeRequest } from './program-request.ts';
import { encodeJson, encodeRecord, RECORD } from './records.ts';
import { unpackTree } from './unpack.ts';

/*
 * The far side of a copy, which runs where the files are: it sends a tree on its standard
 * output, or receives one on its standard input and reports on its standard output. Every error
 * is reported in a record; the exit status only says that there was one.
 */

export async function main(argument: string, input: AsyncIterable<Buffer>): Promise<void> {
  const request = JSON.parse(argument) as FileTreeRequest;
  // There is no reader left to report to.
  process.stdout.on('error', () => process.exit(1));
  widenPipe(request.role === 'send' ? 1 : 0);
  try {
    if (request.role === 'send') await send(request);
    else await receive(request, failOnSilence(input, request.silenceLimitMs));
  } catch (error) {
    const { code, message } = treeError(error, 'torpor cp');
    await write(encodeJson(RECORD.failure, { code, message }));
    // A sender must be able to read this before its writes fail with EPIPE.
    if (request.role === 'receive') await drain(failOnSilence(input, request.silenceLimitMs));
  }
}

async function drain(input: AsyncIterable<Buffer>): Promise<void> {
  try {
    for await (const _ of input);
  } catch {
    // The reason why the copy failed has been sent.
  }
}

async function send({ path, archive }: Extract<FileTreeRequest, { role: 'send' }>): Promise<void> {
  for await (const chunk of packTree(expandHome(path), { archive })) await write(chunk);
}

async function receive(
  { destination, archive, keepSetId }: Extract<FileTreeRequest, { role: 'receive' }>,
  chunks: AsyncIterable<Buffer>,
): Promise<void> {
  await write(encodeRecord(RECORD.ready));
  let guard: ChildProcess | undefined;
  try {
    const received = await unpackTree(chunks, {
      destination: expandHome(destination),
      archive,
      keepSetId,
      onOmission: (omission) => void write(encodeJson(RECORD.omission, omission)),
      onStaging: (path) => {
        guard = removeWhenKilled(path.toString());
      },
    });
    await write(encodeJson(RECORD.received, received));
  } finally {
    guard?.stdin?.end('done\n');
  }
}

/** As the rest of the API does it. */
function expandHome(path: string): string {
  return path === '~' || path.startsWith('~/') ? `${homedir()}${path.slice(1)}` : path;
}

/**
 * A process in a session of its own that removes a directory when this one is killed: a copy
 * whose client disconnected is stopped with SIGKILL. Without a shell in the sandbox there is no
 * such process.
 */
function removeWhenKilled(path: string): ChildProcess {
  const guard = spawn('/bin/sh', ['-c', 'read -r _ || rm -rf -- "$0"', path], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  guard.on('error', () => undefined);
  guard.stdin?.on('error', () => undefined);
  guard.unref();
  return guard;
}

/** Fails the input with an error when nothing arrives for too long. */
async function* failOnSilence(
  input: AsyncIterable<Buffer>,
  limitMs: number,
): AsyncGenerator<Buffer, void> {
  const chunks = input[Symbol.asyncIterator]();
  for (;;) {
    const { promise: silence, reject } = Promise.withResolvers<never>();
    const message = `Nothing was received for ${limitMs / 1000} s.`;
    const timer = setTimeout(() => reject(new TreeError('internal_error', message)), limitMs);
    try {
      const next = await Promise.race([chunks.next(), silence]);
      if (next.done) return;
      clearTimeout(timer);
      yield next.value;
    } finally {
      clearTimeout(timer);
    }
  }
}

function write(bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error == null ? resolve() : reject(error)));
  });
}
