import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { release } from 'node:os';
import { expect, onTestFinished, test } from 'vitest';
import { exitOfPidfd, openPidfd, type ProcessExit } from './pidfd.ts';
import { closeFd } from './poll.ts';

const [major = 0, minor = 0] = release().split('.').map(Number);
const kernelTells = major > 6 || (major === 6 && minor >= 15);

test.each<[string, ProcessExit]>([
  ['exit 0', { exitCode: 0 }],
  ['exit 7', { exitCode: 7 }],
  ['kill -KILL $$', { signal: 'SIGKILL' }],
  ['kill -TERM $$', { signal: 'SIGTERM' }],
])('how a process exited is known after its exit: %s', async (script, exit) => {
  const child = spawn('/bin/sh', ['-c', `read line; ${script}`], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  await once(child, 'spawn');
  const pidfd = openPidfd(child.pid ?? -1);
  onTestFinished(() => closeFd(pidfd));
  expect([undefined, 'pending']).toContain(exitOfPidfd(pidfd));
  const exited = once(child, 'exit');
  child.stdin?.end('continue\n');
  await exited;
  if (kernelTells) expect(exitOfPidfd(pidfd)).toEqual(exit);
  else expect([undefined, 'pending']).toContain(exitOfPidfd(pidfd));
});
