import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { identifyProcess, isProcessAlive, signalProcess } from './process.ts';

function sleeper(): { pid: number; ended: Promise<unknown[]> } {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  if (child.pid === undefined) throw new Error('sleep could not be started');
  return { pid: child.pid, ended: once(child, 'exit') };
}

test('a process is known by its pid and start time until it ends', async () => {
  const { pid, ended } = sleeper();
  const identity = identifyProcess(pid);
  if (identity === undefined) throw new Error('not found');
  expect(isProcessAlive(identity)).toBe(true);
  expect(signalProcess(identity, 'SIGKILL')).toBe(true);
  expect(await ended).toEqual([null, 'SIGKILL']);
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
