import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { release } from 'node:os';
import { identifyProcess, type ProcessExit } from '@torpor/linux';
import { expect, onTestFinished, test } from 'vitest';
import { VmmProcess } from './vmm-process.ts';

/** Since 6.15 the kernel reports how any process exited. */
const [major = 0, minor = 0] = release().split('.').map(Number);
const kernelTells = major > 6 || (major === 6 && minor >= 15);

/** The exits that may be reported; an older kernel reports one only until the parent is notified. */
function reportable(exit: ProcessExit): ProcessExit[] {
  return kernelTells ? [exit] : [exit, {}];
}

/** A process that another one started, as far as the class can tell. */
async function adopted(script: string) {
  const child = spawn('/bin/sh', ['-c', script], { stdio: ['pipe', 'ignore', 'ignore'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  await once(child, 'spawn');
  const identity = identifyProcess(child.pid ?? -1);
  if (identity === undefined) throw new Error('the process no longer exists');
  const process = VmmProcess.adopt('QEMU', identity, '/dev/null');
  if (process === undefined) throw new Error('it was not adopted');
  return { child, identity, process };
}

test('the exit of an adopted process is noticed, with its signal where the kernel reports it', async () => {
  const { child, process } = await adopted('read line');
  expect(process.status).toBeUndefined();
  child.kill('SIGKILL');
  expect(reportable({ signal: 'SIGKILL' })).toContainEqual(await process.exited);
  expect(process.status).toEqual(await process.exited);
});

test('and so is its exit status', async () => {
  const { child, process } = await adopted('read line; exit 7');
  child.stdin?.end('continue\n');
  expect(reportable({ exitCode: 7 })).toContainEqual(await process.exited);
});

test('one that has exited is not adopted', async () => {
  const { child, identity, process } = await adopted('read line');
  process.unwatch();
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(VmmProcess.adopt('QEMU', identity, '/dev/null')).toBeUndefined();
});

test('one that is killed after it was unwatched exits all the same', async () => {
  const { process } = await adopted('read line');
  process.unwatch();
  await process.kill();
  expect([{}, { signal: 'SIGKILL' }]).toContainEqual(process.status);
});
