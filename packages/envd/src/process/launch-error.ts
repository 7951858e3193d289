import {
  accessSync,
  closeSync,
  constants,
  openSync,
  readSync,
  type Stats,
  statSync,
} from 'node:fs';
import { resolve } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { errnoName } from '../filesystem/errors.ts';
import type { User } from '../users.ts';

export interface LaunchRequest {
  readonly user: User;
  readonly program: string;
  readonly args: readonly string[];
  /** The whole environment of the program. */
  readonly env: Readonly<Record<string, string>>;
  /** An absolute path that existed at the request. */
  readonly cwd: string;
}

/** execvp(3)'s search path without a `PATH`. */
const FALLBACK_SEARCH_PATH = '/bin:/usr/bin';
/** MAX_ARG_STRLEN of linux/binfmts.h without the NUL: 32 pages for one argument or variable. */
const MAX_STRING_BYTES = 32 * 4096 - 1;

/** The paths at which a program is searched, in order; at least one. */
export function programPaths({ program, cwd, env }: LaunchRequest): string[] {
  if (program.includes('/')) return [resolve(cwd, program)];
  const directories = (env.PATH ?? FALLBACK_SEARCH_PATH).split(':');
  return directories.map((directory) => resolve(cwd, directory, program));
}

/**
 * The error for a program that could not be started, by the errno of fork(2), chdir(2) or
 * execve(2). It reads the file system to distinguish causes with the same errno, so it must run
 * with the credentials of the program's account.
 *
 * `program_not_found` where a shell would exit with 127 (a missing interpreter among it),
 * `program_not_executable` where it would with 126; `too_large` for arguments and environment;
 * `sandbox_exhausted` for exhausted resources of the sandbox; `invalid_request` for the working
 * directory.
 */
export function launchError(request: LaunchRequest, cause: unknown): TorporError {
  const errno = errnoName(cause) ?? '';
  const exhausted = EXHAUSTED[errno];
  if (exhausted !== undefined) {
    const [what, remedy] = exhausted;
    return new TorporError(
      'sandbox_exhausted',
      `The program '${request.program}' could not be started: ${what}.`,
      { remedy, cause },
    );
  }
  if (errno === 'E2BIG') return tooLong(request, cause);
  return directoryError(request, cause) ?? programError(request, errno, cause);
}

const END_PROGRAMS = 'Kill programs in the sandbox, or create one with more memory.';
const CLOSE_FILES = 'Kill programs in the sandbox that hold many files open.';

const EXHAUSTED: Readonly<Record<string, readonly [what: string, remedy: string]>> = {
  EAGAIN: ['the sandbox has reached its limit of processes', END_PROGRAMS],
  ENOMEM: ['the sandbox has no memory left', END_PROGRAMS],
  EMFILE: ['too many programs and files are in use through the API', CLOSE_FILES],
  ENFILE: ['the sandbox has reached its limit of open files', CLOSE_FILES],
  ENOSPC: ['the sandbox has reached its limit of terminals', 'Close terminals in the sandbox.'],
};

function tooLong({ program, args, env }: LaunchRequest, cause: unknown): TorporError {
  const strings = [
    ['The name of the program', program],
    ...args.map((arg, index) => [`Argument ${index + 1}`, arg]),
    ...Object.entries(env).map(([name, value]) => [
      `The environment variable ${name}`,
      `${name}=${value}`,
    ]),
  ] as const;
  const remedy = 'Write long values to a file in the sandbox, and give the program its path.';
  for (const [what = '', text = ''] of strings) {
    const bytes = Buffer.byteLength(text);
    if (bytes <= MAX_STRING_BYTES) continue;
    return new TorporError(
      'too_large',
      `${what} has ${bytes} bytes; Linux takes at most ${MAX_STRING_BYTES} in one.`,
      { remedy, cause },
    );
  }
  const total = strings.reduce((sum, [, text = '']) => sum + Buffer.byteLength(text) + 1, 0);
  return new TorporError(
    'too_large',
    `The arguments and the environment have ${total} bytes, more than Linux gives a program ` +
      '(a quarter of its stack, usually 2 MiB).',
    { remedy, cause },
  );
}

function directoryError({ cwd }: LaunchRequest, cause: unknown): TorporError | undefined {
  try {
    if (!statSync(cwd).isDirectory()) {
      return unusableDirectory(cwd, 'is not a directory', cause);
    }
    accessSync(cwd, constants.X_OK);
    return undefined;
  } catch (error) {
    const why = errnoName(error) === 'EACCES' ? 'is not accessible to this user' : 'does not exist';
    return unusableDirectory(cwd, why, cause);
  }
}

/** That the working directory of a request cannot be used, with the message of E2B's envd. */
export function unusableDirectory(path: string, why: string, cause?: unknown): TorporError {
  const issue = { field: 'cwd', problem: `'${path}' ${why}` };
  return new TorporError('invalid_request', `${issue.field} ${issue.problem}`, {
    remedy: 'Name a directory that exists in the sandbox and that its user may enter.',
    issues: [issue],
    cause,
  });
}

function programError(request: LaunchRequest, errno: string, cause: unknown): TorporError {
  const { program } = request;
  const found = programPaths(request)
    .map((path) => ({ path, stats: statOrErrno(path) }))
    .find(({ stats }) => typeof stats !== 'string');
  const because = (reason: string): TorporError =>
    new TorporError(
      'program_not_executable',
      `The program '${program}' cannot be executed: ${reason}.`,
      { cause },
    );
  if (found === undefined || typeof found.stats === 'string') {
    return notFound(request, errno, cause);
  }
  const { path, stats } = found;
  if (stats.isDirectory()) return because('it is a directory');
  switch (errno) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new TorporError(
        'program_not_found',
        `The program '${program}' cannot be executed: ${interpreterOf(path)} does not exist in the sandbox.`,
        { cause },
      );
    case 'EACCES':
      return because(whyRefused(path));
    case 'ENOEXEC':
    case 'ELIBBAD':
      return because('it is neither a script nor a program for this processor');
    case 'ETXTBSY':
      return because('it is open for writing; close it, and try again');
    case 'ELOOP':
      return because('its interpreters form a loop');
    default:
      return errno === '' ? TorporError.from(cause) : because(`execve failed with ${errno}`);
  }
}

function notFound({ program }: LaunchRequest, errno: string, cause: unknown): TorporError {
  if (errno === 'EACCES') {
    return new TorporError(
      'program_not_executable',
      `The program '${program}' cannot be executed: a directory on its path is not accessible to this user.`,
      { cause },
    );
  }
  const message = program.includes('/')
    ? `The program '${program}' does not exist in the sandbox${WHY_NOT_FOUND[errno] ?? ''}.`
    : `The program '${program}' is not in the PATH of the sandbox.`;
  return new TorporError('program_not_found', message, { cause });
}

const WHY_NOT_FOUND: Readonly<Record<string, string>> = {
  ENOTDIR: ': a part of its path is not a directory',
  ELOOP: ': its path has too many symbolic links',
  ENAMETOOLONG: ': its path is too long',
};

/** The interpreter of a file that exists, as part of a sentence. */
function interpreterOf(path: string): string {
  const interpreter = readInterpreter(path);
  if (interpreter === undefined) return 'the dynamic loader that it names';
  // A CR is invisible when printed, and the usual cause.
  return interpreter.endsWith('\r')
    ? `its lines end as on Windows (CR LF), and the interpreter '${interpreter.slice(0, -1)}\\r'`
    : `its interpreter '${interpreter}'`;
}

function whyRefused(path: string): string {
  if (!isExecutable(path)) return 'it is not marked as executable for this user; see chmod +x';
  const interpreter = readInterpreter(path);
  return interpreter !== undefined && !isExecutable(interpreter)
    ? `its interpreter '${interpreter}' is not executable`
    : 'its file system is mounted with noexec';
}

/** The bytes that the kernel reads (BINPRM_BUF_SIZE). */
const HEAD_BYTES = 256;

/** Undefined for a file that is not a script, or cannot be read. */
function readInterpreter(path: string): string | undefined {
  return /^#![ \t]*([^ \t\n]+)/.exec(readHead(path).toString('utf8'))?.[1];
}

/** EM_386 and EM_X86_64 of elf(5): what an x86-64 kernel executes. */
const ELF_MACHINES = new Set([3, 62]);

/**
 * Whether a file is an ELF image of another processor, or damaged. execvp(3) would run it as a
 * shell script, like any format that the kernel does not know.
 */
export function isForeignElf(path: string): boolean {
  const head = readHead(path);
  if (head.toString('latin1', 0, 4) !== '\x7fELF') return false;
  return head.length < 20 || !ELF_MACHINES.has(head.readUInt16LE(18));
}

/** The beginning of a file; empty if it cannot be read. */
function readHead(path: string): Buffer {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const head = Buffer.alloc(HEAD_BYTES);
    return head.subarray(0, readSync(fd, head));
  } catch {
    return Buffer.alloc(0);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function statOrErrno(path: string): Stats | string {
  try {
    return statSync(path);
  } catch (error) {
    return errnoName(error) ?? '';
  }
}
