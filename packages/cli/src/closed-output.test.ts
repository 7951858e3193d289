import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TORPOR } from '@torpor/testkit/cli';
import { expect, onTestFinished, test } from 'vitest';

test('a command exits without a message when its reader has exited', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'torpor-closed-'));
  onTestFinished(() => rm(dataDir, { recursive: true, force: true }));
  // `read` waits until the test knows that the pipe has no reader.
  const script = `{ read line; '${process.execPath}' '${TORPOR}' image ls; echo "status $?" >&2; } | { exec 0<&-; echo closed >&2; }`;
  const shell = spawn('/bin/bash', ['-c', script], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { ...process.env, TORPOR_DATA_DIR: dataDir },
  });
  onTestFinished(() => void shell.kill('SIGKILL'));
  const [message] = await once(shell.stderr, 'data');
  expect(String(message)).toBe('closed\n');
  shell.stdin.end('continue\n');
  const [stderr] = await Promise.all([shell.stderr.toArray(), once(shell, 'close')]);
  expect(Buffer.concat(stderr).toString()).toBe('status 141\n');
});

test.each([[['image', 'ls']], [['image', 'ls', '--json']], [['--help']]])(
  '%s to a full disk reports that',
  async (args) => {
    const dataDir = await mkdtemp(join(tmpdir(), 'torpor-full-'));
    onTestFinished(() => rm(dataDir, { recursive: true, force: true }));
    const { status, stderr } = spawnSync(
      '/bin/bash',
      ['-c', 'exec "$@" > /dev/full', 'bash', process.execPath, TORPOR, ...args],
      { env: { ...process.env, TORPOR_DATA_DIR: dataDir }, encoding: 'utf8' },
    );
    expect(stderr).toBe(
      'torpor: Standard output cannot be written: no space left on device (ENOSPC).\n' +
        '  → Free space where it goes, or redirect it elsewhere.\n',
    );
    expect(status).toBe(1);
  },
);
