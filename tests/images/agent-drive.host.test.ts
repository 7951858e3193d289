import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ensureGuestArtifacts, type GuestArtifacts } from '@torpor/images';
import { runCommand } from '@torpor/linux';
import { ENVD_ENTRY } from '@torpor/testkit/guests';
import { afterAll, beforeAll, expect, test } from 'vitest';

/* The agent drive alone, on an empty root: no C library, no shell, no /usr. */

let directory: string;
let root: string;
let artifacts: GuestArtifacts;

beforeAll(async () => {
  const cacheDir = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';
  artifacts = await ensureGuestArtifacts({ cacheDir, envdEntry: ENVD_ENTRY });
  directory = await mkdtemp(join(tmpdir(), 'agent-drive-'));
  await mkdir(join(directory, 'drive'));
  await runCommand('mount', [
    ...['-o', 'loop,ro', artifacts.agentDrivePath],
    join(directory, 'drive'),
  ]);
  root = join(directory, 'drive', 'root');
});

afterAll(async () => {
  if (directory === undefined) return;
  await runCommand('umount', [join(directory, 'drive')]);
  await rm(directory, { recursive: true });
});

function chroot(...command: string[]): Promise<string> {
  return runCommand('chroot', [root, ...command]);
}

test('Node runs, and knows its own path', async () => {
  const script = 'console.log(process.execPath, process.versions.node)';
  expect(await chroot('/.torpor/bin/node', '-e', script)).toBe(
    `/.torpor/bin/node ${artifacts.nodeVersion}\n`,
  );
});

test('the compiled modules find their libraries', async () => {
  const script = `
    const { createRequire } = require('node:module');
    const load = createRequire('/.torpor/envd/start.cjs');
    const libc = load('koffi').load('libc.so.6');
    console.log(libc.func('int getpid()')() === process.pid);`;
  expect(await chroot('/.torpor/bin/node', '-e', script)).toBe('true\n');
});

test("the drive's Node accepts the bytecode of envd that was made with the drive", async () => {
  const script = `
    const { loadBundle } = require('/.torpor/envd/load-bundle.cjs');
    const { envd, script } = loadBundle('/.torpor/envd');
    console.log(typeof envd.runDaemon, script.cachedDataRejected);`;
  expect(await chroot('/.torpor/bin/node', '-e', script)).toBe('function false\n');
});

test('tini and setpriv run', async () => {
  expect(await chroot('/.torpor/bin/tini', '--version')).toContain('tini version');
  expect(await chroot('/.torpor/bin/setpriv', '--version')).toContain('setpriv');
});

test('the file system is consistent', async () => {
  await runCommand('e2fsck', ['-f', '-n', artifacts.agentDrivePath]);
});

test('a second call creates nothing', async () => {
  const messages: string[] = [];
  const cacheDir = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';
  const again = await ensureGuestArtifacts({
    cacheDir,
    envdEntry: ENVD_ENTRY,
    onProgress: ({ message }) => messages.push(message),
  });
  expect(again).toEqual(artifacts);
  expect(messages).toEqual([]);
});
