// Plain JavaScript for Node >= 20 without packages: this file and its callers run before
// the project's own Node and packages are installed.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fail } from '../../packages/cli/bin/bundled-node.mjs';

export const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** Fails with a message if the project cannot run on this platform. */
export function assertPlatform() {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    fail(`Torpor runs on Linux on x86-64; this is ${process.platform} on ${process.arch}.`);
  }
}

/**
 * Installs the npm packages if they are missing or are not those of
 * package-lock.json. The lock's hash is recorded in node_modules, so that
 * usually only two short strings are compared.
 *
 * @param {string} [root] the checkout; the default is this one
 * @returns {"present" | "installed"}
 */
export function ensureDependencies(root = REPOSITORY) {
  const lock = readFileSync(join(root, 'package-lock.json'));
  const hash = createHash('sha256').update(lock).digest('hex');
  const record = join(root, 'node_modules/.torpor-lock-sha256');
  if (dependenciesMatch(root, lock, hash, record)) return 'present';

  process.stderr.write('torpor: installing npm packages (npm ci)\n');
  const npm = process.env.npm_execpath;
  const [program, args] = npm?.endsWith('.js') ? [process.execPath, [npm]] : ['npm', []];
  const result = spawnSync(
    program,
    [...args, 'ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'],
    // npm's output goes to stderr: stdout is for `--json`.
    { cwd: root, stdio: ['ignore', 2, 2] },
  );
  if (result.error !== undefined) {
    fail(`npm could not be run: ${result.error.message}. Install npm.`);
  }
  if (result.status !== 0) {
    fail('npm ci failed; what it printed above says why.');
  }
  writeFileSync(record, `${hash}\n`);
  return 'installed';
}

function dependenciesMatch(root, lock, hash, record) {
  const wanted = JSON.parse(lock.toString()).packages;
  if (!workspacesAreLinked(root, wanted)) return false;
  if (existsSync(record) && readFileSync(record, 'utf8').trim() === hash) {
    return true;
  }
  // For packages from a developer's `npm install`: npm keeps its own list.
  const installed = join(root, 'node_modules/.package-lock.json');
  if (!existsSync(installed)) return false;
  const present = JSON.parse(readFileSync(installed, 'utf8')).packages;
  for (const [path, entry] of Object.entries(wanted)) {
    // An optional package may be for another platform.
    if (path === '' || !path.startsWith('node_modules/') || entry.link) continue;
    const found = present[path];
    if (found === undefined ? !entry.optional : !sameVersion(found, entry)) {
      return false;
    }
  }
  // Not writable if an ordinary user runs tests in another user's checkout.
  if (isWritable(dirname(record))) writeFileSync(record, `${hash}\n`);
  return true;
}

/** npm's own list does not contain a workspace that was added by the last pull. */
function workspacesAreLinked(root, wanted) {
  return Object.entries(wanted).every(([path, { link }]) => !link || existsSync(join(root, path)));
}

function isWritable(directory) {
  try {
    accessSync(directory, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function sameVersion(found, wanted) {
  return found.version === wanted.version && found.integrity === wanted.integrity;
}
