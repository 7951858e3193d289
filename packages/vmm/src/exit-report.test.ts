import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { type ExitEvidence, reportExit } from './exit-report.ts';

async function reasonFor(evidence: Partial<ExitEvidence>, console = '', output = '') {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-exit-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const consolePath = join(directory, 'console');
  const outputPath = join(directory, 'output');
  await writeFile(consolePath, console);
  await writeFile(outputPath, output);
  return await reportExit({
    vmm: 'QEMU',
    end: {},
    intended: undefined,
    shutdownReason: undefined,
    consolePath,
    outputPath,
    ...evidence,
  });
}

const PANIC =
  'booting\r\n[ 1.0] Kernel panic - not syncing: VFS: no root\r\n[ 1.1] CPU: 0 PID: 1\r\n';

test('a panic that the guest printed says more than the reset that followed it', async () => {
  const report = await reasonFor({ end: { exitCode: 0 }, shutdownReason: 'guest-reset' }, PANIC);
  expect(report.reason).toBe("The guest's kernel panicked: VFS: no root.");
  expect(report.consoleTail).toEqual([
    'booting',
    '[ 1.0] Kernel panic - not syncing: VFS: no root',
    '[ 1.1] CPU: 0 PID: 1',
  ]);
});

test('a panic is found before a long stack, and the tail stays short', async () => {
  const stack = Array.from({ length: 60 }, (_, index) => `[ 1.1]  frame_${index}\r\n`).join('');
  const report = await reasonFor({}, `${PANIC}${stack}`);
  expect(report.reason).toBe("The guest's kernel panicked: VFS: no root.");
  expect(report.consoleTail).toHaveLength(20);
  expect(report.consoleTail.at(-1)).toBe('[ 1.1]  frame_59');
});

test('the end marker of a panic is not part of its reason', async () => {
  const end = '[ 1.2] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n';
  const { reason } = await reasonFor({}, end);
  expect(reason).toBe("The guest's kernel panicked: Attempted to kill init!");
});

test('an intended end is reported as such, with its signal', async () => {
  const report = await reasonFor({ end: { signal: 'SIGKILL' }, intended: 'It was killed.' }, PANIC);
  expect(report).toMatchObject({ reason: 'It was killed.', signal: 'SIGKILL' });
});

test('a signal and a failure come with the last words of QEMU', async () => {
  const killed = await reasonFor({ end: { signal: 'SIGKILL' } }, '', 'first\nlast words\n');
  expect(killed.reason).toMatch(/^QEMU was ended by SIGKILL, .*\. Its last words: last words$/);
  const failed = await reasonFor({ end: { exitCode: 1 } }, '', 'qemu: no memory\n');
  expect(failed.reason).toBe('QEMU ended with status 1. Its last words: qemu: no memory');
});

test('the reasons of a shutdown are told in sentences', async () => {
  const end = { exitCode: 0 };
  const { reason } = await reasonFor({ end, shutdownReason: 'guest-shutdown' });
  expect(reason).toBe('The guest powered itself down.');
  expect((await reasonFor({ end, shutdownReason: 'new-cause' })).reason).toContain('new-cause');
});

test('a guest that powers itself down has not panicked, whatever it prints', async () => {
  const evidence = { end: { exitCode: 0 }, shutdownReason: 'guest-shutdown' };
  const { reason } = await reasonFor(evidence, PANIC);
  expect(reason).toBe('The guest powered itself down.');
});

test('a guest whose initramfs gave up says why', async () => {
  const evidence = { end: { exitCode: 0 }, shutdownReason: 'guest-shutdown' };
  const line = 'torpor: [3.25] boot failed: the base drive cannot be mounted\r\n';
  const { reason } = await reasonFor(evidence, line);
  expect(reason).toBe('The guest could not start: the base drive cannot be mounted.');
  const confirmed = await reasonFor(evidence, `${line}[    3.31] reboot: System halted\r\n`);
  expect(confirmed.reason).toBe(reason);
});

test('nothing in the report can steer a terminal', async () => {
  const { consoleTail } = await reasonFor({}, '\x1b[31mred\x07\n');
  expect(consoleTail).toEqual(['[31mred']);
});

test('an adopted QEMU leaves no status: the report says what that can mean', async () => {
  const silent = await reasonFor({});
  expect(silent).toEqual({
    reason: expect.stringMatching(/^QEMU crashed, or was killed .*; which is not known\.$/),
    consoleTail: [],
  });
  const told = await reasonFor({}, '', 'qemu: terminating on signal 15 from pid 7\n');
  expect(told.reason).toMatch(/ Its last words: qemu: terminating on signal 15 from pid 7$/);
});

test("a VMM's own log has its last words, and its statuses a meaning", async () => {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-exit-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const logPath = join(directory, 'log');
  await writeFile(logPath, 'started\n\0\0shutting down\n');
  const evidence = { vmm: 'Firecracker', end: { exitCode: 148 }, logPath };
  const statusMeanings = { 148: ': it was refused' };
  const { reason } = await reasonFor({ ...evidence, statusMeanings }, '', 'printed\n');
  expect(reason).toBe(
    'Firecracker ended with status 148: it was refused. Its last words: shutting down',
  );
});
