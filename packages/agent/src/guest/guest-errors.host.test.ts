import { mkdir, mkdtemp, readdir, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { runCommand } from '@torpor/linux';
import { type ErrorCode, TorporError } from '@torpor/protocol';
import { PlainEnvd } from '@torpor/testkit/agent';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exec } from './exec.ts';
import { listDirectory, makeDirectory, removePath } from './files.ts';
import { GuestClient } from './guest-client.ts';
import { sendInput, startBackground } from './processes.ts';

/*
 * Errors of a sandbox's file systems and limits reach the caller with the right code and their
 * own message, through the real daemon.
 */

const stack = new AsyncDisposableStack();
let guest: GuestClient;
let directory: string;
let envdUrl: string;

/** A file system of its own: `full` or `read-only`. */
async function mountSmall(name: string): Promise<void> {
  const path = join(directory, name);
  await mkdir(path);
  await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=64k,nr_inodes=8', 'torpor-test', path]);
  stack.defer(async () => {
    await runCommand('umount', [path]);
    await rmdir(path);
  });
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-guest-errors-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  for (const name of ['full', 'no-inodes', 'read-only']) await mountSmall(name);
  await writeFile(join(directory, 'full/ballast'), Buffer.alloc(64 * 1024));
  for (let n = 0; n < 7; n++) await writeFile(join(directory, `no-inodes/${n}`), '');
  await writeFile(join(directory, 'read-only/file'), '');
  await runCommand('mount', ['-o', 'remount,ro', join(directory, 'read-only')]);
  await writeFile(join(directory, 'file'), '');
  await symlink('loop', join(directory, 'loop'));
  await runCommand('mkfifo', [join(directory, 'fifo')]);
  await runCommand('cp', ['/bin/sleep', join(directory, 'running')]);
  const envd = stack.use(await PlainEnvd.start());
  envdUrl = envd.url;
  guest = new GuestClient({ sandboxId: 'sb', baseUrl: envd.url, accessToken: '' });
  stack.defer(() => guest.close(new TorporError('guest_unreachable', 'The test has finished.')));
}, 60_000);

afterAll(() => stack.disposeAsync());

async function* bytes(size: number): AsyncGenerator<Uint8Array> {
  yield Buffer.alloc(size, 'x');
}

const at = (name: string) => join(directory, name);
const write = (name: string, size = 1) => guest.writeFile({ path: at(name) }, bytes(size));
const makeDir = (name: string) => makeDirectory(guest, at(name), {});
const read = (path: string) => Array.fromAsync(guest.readFile({ path }));

async function failureOf(call: Promise<unknown>): Promise<TorporError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof TorporError) return error;
  throw new Error(`It is not a TorporError: ${String(error)}`);
}

const ROOM = /Remove files in the sandbox/;

describe('a file system of the sandbox', () => {
  test.each<[what: string, call: () => Promise<unknown>, code: ErrorCode, message: RegExp]>([
    ['full: a new file', () => write('full/new', 9), 'sandbox_disk_full', /no space left/],
    ['full: a long new file', () => write('full/new', 2e6), 'sandbox_disk_full', /no space left/],
    ['full: an existing file', () => write('full/ballast', 2e5), 'sandbox_disk_full', /ENOSPC/],
    ['no inodes: a file', () => write('no-inodes/new'), 'sandbox_disk_full', /no space left/],
    ['no inodes: a directory', () => makeDir('no-inodes/a/b'), 'sandbox_disk_full', /ENOSPC/],
    ['read-only: a file', () => write('read-only/new'), 'invalid_request', /EROFS: read-only/],
    ['read-only: overwriting', () => write('read-only/file'), 'invalid_request', /read-only/],
    ['read-only: a directory', () => makeDir('read-only/new'), 'invalid_request', /read-only/],
    [
      'read-only: removing',
      () => removePath(guest, at('read-only/file'), {}),
      'invalid_request',
      /read-only/,
    ],
    ['a directory as a file', () => write('full'), 'invalid_request', /is a directory/],
    ['a file as a directory', () => write('file/x'), 'invalid_request', /not a directory|ENOTDIR/],
    ['a loop of links', () => write('loop/x'), 'invalid_request', /too many symbolic links|ELOOP/],
    ['a name too long', () => write('x'.repeat(300)), 'invalid_request', /ENAMETOOLONG: name too/],
    ['a FIFO', () => write('fifo'), 'invalid_request', /is not a regular file/],
    ['reading what is missing', () => read(at('none')), 'not_found', /'.*none' does not exist/],
    ['reading a directory', () => read(directory), 'invalid_request', /is a directory/],
    [
      'listing what is missing',
      () => listDirectory(guest, at('none'), 1, {}),
      'not_found',
      /no such file or directory/,
    ],
    [
      'listing a file',
      () => listDirectory(guest, at('file'), 1, {}),
      'invalid_request',
      /is not a/,
    ],
    ['a directory that exists', () => makeDir('full'), 'already_exists', /./],
    [
      'a proc file that takes no bytes',
      () => write('../../proc/version'),
      'guest_failed',
      /^Cannot write \/proc\/version: EIO/,
    ],
    [
      'a value that sysctl refuses',
      () => write('../../proc/sys/kernel/pid_max'),
      'invalid_request',
      /EINVAL/,
    ],
  ])('reports its error: %s', async (what, call, code, message) => {
    const error = await failureOf(call());
    expect([what, error.code, error.message]).toEqual([what, code, expect.stringMatching(message)]);
    expect(error.message).toMatch(/^[A-Z].*\.$/s);
    if (code === 'sandbox_disk_full') expect(error.remedy).toMatch(ROOM);
    else expect(error.remedy).not.toMatch(/defect|data directory/);
  });

  test('keeps nothing of an upload whose unpacked content does not fit', async () => {
    const bomb = gzipSync(Buffer.alloc(50_000_000));
    const response = await fetch(`${envdUrl}/files?path=${at('full/bomb')}`, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream', 'content-encoding': 'gzip' },
      body: bomb,
    });
    expect([response.status, await readdir(at('full'))]).toEqual([507, ['ballast']]);
  });

  test('reports that a running program cannot be overwritten', async () => {
    const started = await startBackground(guest, { cmd: at('running'), args: ['60'], envs: {} });
    const error = await failureOf(write('running'));
    expect(error).toMatchObject({
      code: 'invalid_request',
      message: expect.stringContaining('text file is busy'),
    });
    process.kill(started.pid, 'SIGKILL');
  });
});

describe('limits', () => {
  test('on arguments are reported as such, and so are limits on messages', async () => {
    const limits = { timeoutMs: undefined, maxOutputBytes: 1 };
    const long = { cmd: 'true', args: ['x'.repeat(200_000)], envs: {} };
    expect(await failureOf(exec(guest, long, limits))).toMatchObject({
      code: 'too_large',
      message: expect.stringContaining('Argument 1 has 200000 bytes'),
      remedy: expect.stringContaining('file in the sandbox'),
    });
    const vast = { cmd: 'true', args: ['x'.repeat(65 * 2 ** 20)], envs: {} };
    expect(await failureOf(exec(guest, vast, limits))).toMatchObject({
      code: 'too_large',
      message: expect.stringContaining('A message may have at most 67108864 bytes'),
    });
    const { pid } = await startBackground(guest, { cmd: 'sleep', args: ['60'], envs: {} });
    const data = Buffer.alloc(65 * 2 ** 20);
    const sent = sendInput(guest, { case: 'pid', value: pid }, { data, end: false }, {});
    expect(await failureOf(sent)).toMatchObject({ code: 'too_large' });
    process.kill(pid, 'SIGKILL');
  });
});
