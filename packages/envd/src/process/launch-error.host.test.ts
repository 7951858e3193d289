import {
  chmod,
  copyFile,
  type FileHandle,
  mkdir,
  open,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { type ErrorCode, TorporError } from '@torpor/protocol';
import { TEST_USER, type TestGuest, testGuest } from '@torpor/testkit/envd';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GuestProcess } from './guest-process.ts';
import { launchError } from './launch-error.ts';
import { Launcher } from './launcher.ts';
import { ProcessTable } from './process-table.ts';

let guest: TestGuest;
let directory: string;
let table: ProcessTable;
let busy: FileHandle;

/** Of the programs that the tests use. */
const SCRIPTS = {
  'no-interpreter': '#!/no/such/interpreter -x\n',
  'bad-interpreter': '#! /etc/passwd\n',
  windows: '#!/bin/sh\r\ntrue\r\n',
  aarch64: Buffer.from(`\x7fELF\x02\x01\x01${'\0'.repeat(9)}\x02\0\xb7\0`, 'latin1'),
  'no-shebang': 'exit 7\n',
};

beforeEach(async () => {
  guest = await testGuest();
  directory = guest.directory;
  await chmod(directory, 0o755);
  for (const [name, text] of Object.entries(SCRIPTS))
    await writeFile(join(directory, name), text, { mode: 0o755 });
  await writeFile(join(directory, 'itself'), `#!${directory}/itself\n`, { mode: 0o755 });
  await writeFile(join(directory, 'plain'), 'no program', { mode: 0o644 });
  await symlink('loop', join(directory, 'loop'));
  await mkdir(join(directory, 'locked'), { mode: 0o700 });
  await copyFile('/bin/true', join(directory, 'locked/true'));
  await copyFile('/bin/true', join(directory, 'busy'));
  busy = await open(join(directory, 'busy'), 'r+');
  table = new ProcessTable({
    context: guest.context,
    launcher: new Launcher(),
    searchPath: `${directory}:/etc/passwd:/usr/bin:/bin`,
  });
});

afterEach(async () => {
  table.killAll();
  await busy.close();
  await guest[Symbol.asyncDispose]();
});

interface Start {
  readonly cmd: string;
  readonly args?: readonly string[];
  readonly envs?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly user?: string;
}

const CHANNELS = ['pipes', 'a terminal'] as const;

function start(channel: (typeof CHANNELS)[number], request: Start) {
  const { cmd, args = [], envs = {}, cwd, user = 'root' } = request;
  return table.start({
    user: guest.context.resolveUser(user),
    description: { cmd, args, envs, cwd, tag: undefined },
    terminal: channel === 'pipes' ? undefined : { cols: 80, rows: 24 },
    stdin: true,
  });
}

async function failureOf(started: Promise<unknown>): Promise<TorporError> {
  return TorporError.from(
    await started.then(
      () => undefined,
      (error: unknown) => error,
    ),
  );
}

const LONGEST = 128 * 1024 - 1;
const manyVariables = Object.fromEntries(
  Array.from({ length: 30 }, (_, at) => [`V${at}`, 'x'.repeat(100_000)]),
);

describe.each(CHANNELS)('a program on %s that cannot be started', (channel) => {
  it.each<[cause: string, request: () => Start, code: ErrorCode, message: RegExp]>([
    ['ENOENT', () => ({ cmd: '/no/such' }), 'program_not_found', /'\/no\/such' does not exist/],
    [
      'ENOENT on PATH',
      () => ({ cmd: 'nosuch' }),
      'program_not_found',
      /is not in the PATH of the sandbox/,
    ],
    ['ENOTDIR', () => ({ cmd: '/etc/passwd/x' }), 'program_not_found', /is not a directory/],
    ['ELOOP', () => ({ cmd: `${directory}/loop` }), 'program_not_found', /symbolic links/],
    ['ENAMETOOLONG', () => ({ cmd: `/${'x'.repeat(300)}` }), 'program_not_found', /too long/],
    ['EACCES: mode', () => ({ cmd: `${directory}/plain` }), 'program_not_executable', /chmod/],
    ['EACCES on PATH', () => ({ cmd: 'plain' }), 'program_not_executable', /chmod \+x/],
    ['EACCES: directory', () => ({ cmd: '/etc' }), 'program_not_executable', /is a directory/],
    [
      'EACCES: a directory on the path',
      () => ({ cmd: `${directory}/locked/true`, user: 'alice' }),
      'program_not_executable',
      /a directory on its path is not accessible/,
    ],
    [
      'a missing interpreter',
      () => ({ cmd: `${directory}/no-interpreter` }),
      'program_not_found',
      /its interpreter '\/no\/such\/interpreter' does not exist/,
    ],
    [
      'an interpreter with a CR LF line ending',
      () => ({ cmd: 'windows' }),
      'program_not_found',
      /CR LF.*'\/bin\/sh\\r' does not exist/,
    ],
    [
      'a program for another processor',
      () => ({ cmd: `${directory}/aarch64` }),
      'program_not_executable',
      /neither a script nor a program for this processor/,
    ],
    [
      'an interpreter that is not a program',
      () => ({ cmd: 'bad-interpreter' }),
      'program_not_executable',
      /its interpreter '\/etc\/passwd' is not executable/,
    ],
    [
      'an interpreter in a circle',
      () => ({ cmd: 'itself' }),
      'program_not_executable',
      /form a loop/,
    ],
    ['ETXTBSY', () => ({ cmd: 'busy' }), 'program_not_executable', /open for writing/],
    [
      'E2BIG: one argument',
      () => ({ cmd: 'true', args: ['a', 'x'.repeat(LONGEST + 1)] }),
      'too_large',
      /^Argument 2 has 131072 bytes; .* at most 131071/,
    ],
    [
      'E2BIG: one variable',
      () => ({ cmd: 'true', envs: { LONG: 'ä'.repeat(LONGEST / 2) } }),
      'too_large',
      /variable LONG has 13\d{4} bytes/,
    ],
    [
      'E2BIG: all together',
      () => ({ cmd: 'true', envs: manyVariables }),
      'too_large',
      /^The arguments and the environment have 30\d{5} bytes/,
    ],
    [
      'a working directory that may not be entered',
      () => ({ cmd: 'true', cwd: `${directory}/locked`, user: 'alice' }),
      'invalid_request',
      /^cwd '.*\/locked' is not accessible to this user/,
    ],
  ])('says why: %s', async (_cause, request, code, message) => {
    const error = await failureOf(start(channel, request()));
    expect(error.remedy).not.toBe('');
    expect({ code: error.code, message: error.message }).toEqual({
      code,
      message: expect.stringMatching(message),
    });
    expect(table.running()).toEqual([]);
  });

  it('reports that the user has reached its limit of processes', async () => {
    const error = await withLimit(RLIMIT_NPROC, 0, () =>
      failureOf(start(channel, { cmd: '/bin/true', user: TEST_USER.name, cwd: '/' })),
    );
    expect(error).toMatchObject({
      code: 'sandbox_exhausted',
      message: expect.stringContaining('reached its limit of processes'),
    });
  });

  it('reports that there are no descriptors, and leaks none', async () => {
    const launcher = new Launcher();
    const request = launchRequest('/bin/true');
    const attempt = async () =>
      channel === 'pipes'
        ? await launcher.startOnPipes(request, true)
        : launcher.startOnTerminal(request, { cols: 1, rows: 1 }, () => undefined);
    // The first start may open descriptors that stay open.
    const highest = await freeDescriptor();
    for (const left of channel === 'pipes' ? [0, 1, 2, 5, 6] : [0]) {
      const error = await failureOf(withLimit(RLIMIT_NOFILE, highest + left, attempt));
      expect([left, error.code]).toEqual([left, 'sandbox_exhausted']);
    }
    expect(await freeDescriptor()).toBe(highest);
  });

  it('runs what execvp runs: the longest argument, and a script without #!', async () => {
    const longest = await start(channel, { cmd: 'true', args: ['x'.repeat(LONGEST)] });
    const script = await start(channel, { cmd: 'no-shebang' });
    expect([await exitCodeOf(longest), await exitCodeOf(script)]).toEqual([0, 7]);
  });
});

it.each([
  ['ENOMEM', 'sandbox_exhausted'],
  ['ENFILE', 'sandbox_exhausted'],
  ['ENOSPC', 'sandbox_exhausted'],
  ['ENOEXEC', 'program_not_executable'],
  ['EPERM', 'program_not_executable'],
  ['EIO', 'program_not_executable'],
])('tells %s', (errno, code) => {
  const error = launchError(
    launchRequest('/bin/true'),
    Object.assign(new Error(), { code: errno }),
  );
  expect(error.code).toBe(code);
});

function launchRequest(program: string) {
  return { user: guest.context.resolveUser('root'), program, args: [], env: {}, cwd: directory };
}

/** The lowest number that is free. */
async function freeDescriptor(): Promise<number> {
  await using file = await open('/dev/null');
  return file.fd;
}

async function exitCodeOf(process: GuestProcess): Promise<number> {
  using subscription = process.output.subscribe();
  for (;;) {
    const event = await subscription.next(60_000);
    if (typeof event === 'string') throw new Error(`The output is ${event}.`);
    if (event.type === 'end') return event.end.exitCode;
  }
}

// sys/resource.h
const RLIMIT_NPROC = 6;
const RLIMIT_NOFILE = 7;
const libc = koffi.load('libc.so.6');
const getrlimit = libc.func('int getrlimit(int resource, void *limit)');
const setrlimit = libc.func('int setrlimit(int resource, void *limit)');

/** Lowers a soft limit of this process while `action` runs. */
async function withLimit<T>(resource: number, value: number, action: () => Promise<T>): Promise<T> {
  const usual = Buffer.alloc(16);
  expect(getrlimit(resource, usual)).toBe(0);
  const lowered = Buffer.from(usual);
  lowered.writeBigUInt64LE(BigInt(value));
  expect(setrlimit(resource, lowered)).toBe(0);
  try {
    return await action();
  } finally {
    setrlimit(resource, usual);
  }
}
