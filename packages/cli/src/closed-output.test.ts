import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';

const TORPOR = fileURLToPath(new URL('../bin/torpor.mjs', import.meta.url));

test('a command whose reader has gone ends without a word', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'torpor-closed-'));
  onTestFinished(() => rm(dataDir, { recursive: true, force: true }));
  // `read` waits until we have heard that nobody reads the pipe any more.
  const script = `{ read line; '${process.execPath}' '${TORPOR}' image ls; echo "status $?" >&2; } | { exec 0<&-; echo gone >&2; }`;
  const shell = spawn('/bin/bash', ['-c', script], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { ...process.env, TORPOR_DATA_DIR: dataDir },
  });
  onTestFinished(() => void shell.kill('SIGKILL'));
  const [gone] = await once(shell.stderr, 'data');
  expect(String(gone)).toBe('gone\n');
  shell.stdin.end('go on\n');
  const [stderr] = await Promise.all([shell.stderr.toArray(), once(shell, 'close')]);
  expect(Buffer.concat(stderr).toString()).toBe('status 141\n');
});
