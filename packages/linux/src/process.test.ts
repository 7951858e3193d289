import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { exitOfZombie, identifyProcess, isProcessAlive, signalProcess } from './process.ts';

function sleeper(): { pid: number; exited: Promise<unknown[]> } {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  if (child.pid === undefined) throw new Error('sleep could not be started');
  return { pid: child.pid, exited: once(child, 'exit') };
}

test('a process is known by its pid and start time until it exits', async () => {
  const { pid, exited } = sleeper();
  const identity = identifyProcess(pid);
  if (identity === undefined) throw new Error('not found');
  expect(isProcessAlive(identity)).toBe(true);
  expect(signalProcess(identity, 'SIGKILL')).toBe(true);
  expect(await exited).toEqual([null, 'SIGKILL']);
  expect(isProcessAlive(identity)).toBe(false);
  expect(signalProcess(identity, 'SIGKILL')).toBe(false);
});

test('a process with another start time is left alone', () => {
  const { pid } = sleeper();
  const recycled = { pid, startTimeTicks: '1' };
  expect(isProcessAlive(recycled)).toBe(false);
  expect(signalProcess(recycled, 'SIGKILL')).toBe(false);
  expect(identifyProcess(pid)).toBeDefined();
});

test.each([
  ['exit 7', { exitCode: 7 }],
  ['kill -TERM $$', { signal: 'SIGTERM' }],
])('how a process exited can be read until its parent is notified: %s', async (script, exit) => {
  // A stopped parent is never notified.
  const parent = spawn(
    '/bin/sh',
    ['-c', `exec 3<&0; sh -c 'read line; ${script}' <&3 & echo $!; kill -STOP $$`],
    {
      stdio: ['pipe', 'pipe', 'ignore'],
    },
  );
  onTestFinished(() => void parent.kill('SIGKILL'));
  const [line] = await once(parent.stdout, 'data');
  const identity = identifyProcess(Number(String(line)));
  if (identity === undefined) throw new Error('not found');
  expect(exitOfZombie(identity)).toBeUndefined();
  await expect.poll(() => readFileSync(`/proc/${parent.pid}/stat`, 'latin1')).toMatch(/\) T /);
  parent.stdin.end('continue\n');
  await expect.poll(() => isProcessAlive(identity)).toBe(false);
  expect(exitOfZombie(identity)).toEqual(exit);
  expect(exitOfZombie({ ...identity, startTimeTicks: '1' })).toBeUndefined();
});
