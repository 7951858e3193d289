import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { type ExitEvidence, reportExit, startErrors } from './exit-report.ts';

async function reasonFor(evidence: Partial<ExitEvidence>, console = '', output = '') {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-exit-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const consolePath = join(directory, 'console');
  const outputPath = join(directory, 'output');
  await writeFile(consolePath, console);
  await writeFile(outputPath, output);
  return await reportExit({
    vmm: 'QEMU',
    exit: {},
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
  const report = await reasonFor({ exit: { exitCode: 0 }, shutdownReason: 'guest-reset' }, PANIC);
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

test('the closing line of a panic is not part of its reason', async () => {
  const end = '[ 1.2] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n';
  const { reason } = await reasonFor({}, end);
  expect(reason).toBe("The guest's kernel panicked: Attempted to kill init!");
});

test.each([
  ['qemu: it failed.\n', 'qemu: it failed.'],
  ['qemu: it failed\n', 'qemu: it failed.'],
  ['', 'it printed no error.'],
])('the errors of a start, %j, are followed by one full stop', async (output, expected) => {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-start-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, 'output'), output);
  expect(await startErrors([join(directory, 'output')])).toBe(expected);
});

test.each([
  ['no root disk', 'The guest could not start: no root disk.'],
  ['no root disk.', 'The guest could not start: no root disk.'],
])('so is the message of a boot that failed: %j', async (message, expected) => {
  const console = `torpor: [1.0] boot failed: ${message}\r\n[ 1.1] reboot: Power down\r\n`;
  const { reason } = await reasonFor({ exit: { exitCode: 0 } }, console);
  expect(reason).toBe(expected);
});

test('an intended exit is reported as such, with its signal', async () => {
  const report = await reasonFor(
    { exit: { signal: 'SIGKILL' }, intended: 'It was killed.' },
    PANIC,
  );
  expect(report).toMatchObject({ reason: 'It was killed.', signal: 'SIGKILL' });
});

test('a signal and a failure come with the last error of QEMU', async () => {
  const killed = await reasonFor({ exit: { signal: 'SIGKILL' } }, '', 'first\nlast\n');
  expect(killed.reason).toMatch(/^QEMU was terminated by SIGKILL, .*\. Its last error: last$/);
  const failed = await reasonFor({ exit: { exitCode: 1 } }, '', 'qemu: no memory\n');
  expect(failed.reason).toBe('QEMU exited with status 1. Its last error: qemu: no memory');
});

test('the reasons of a shutdown are reported in sentences', async () => {
  const exit = { exitCode: 0 };
  const { reason } = await reasonFor({ exit, shutdownReason: 'guest-shutdown' });
  expect(reason).toBe('The guest powered itself down.');
  expect((await reasonFor({ exit, shutdownReason: 'new-cause' })).reason).toContain('new-cause');
});

test('a guest that powers itself down has not panicked, whatever it prints', async () => {
  const evidence = { exit: { exitCode: 0 }, shutdownReason: 'guest-shutdown' };
  const { reason } = await reasonFor(evidence, PANIC);
  expect(reason).toBe('The guest powered itself down.');
});

test('a guest whose initramfs gave up says why', async () => {
  const evidence = { exit: { exitCode: 0 }, shutdownReason: 'guest-shutdown' };
  const line = 'torpor: [3.25] boot failed: the base drive cannot be mounted\r\n';
  const { reason } = await reasonFor(evidence, line);
  expect(reason).toBe('The guest could not start: the base drive cannot be mounted.');
  const confirmed = await reasonFor(evidence, `${line}[    3.31] reboot: System halted\r\n`);
  expect(confirmed.reason).toBe(reason);
});

test('nothing in the report can control a terminal', async () => {
  const { consoleTail } = await reasonFor({}, '\x1b[31mred\x07\n');
  expect(consoleTail).toEqual(['[31mred']);
});

test('an adopted QEMU has no exit status: the report says what that can mean', async () => {
  const silent = await reasonFor({});
  expect(silent).toEqual({
    reason: expect.stringMatching(/^QEMU crashed, or was killed .*; the exit status is unknown\.$/),
    consoleTail: [],
  });
  const told = await reasonFor({}, '', 'qemu: terminating on signal 15 from pid 7\n');
  expect(told.reason).toMatch(/ Its last error: qemu: terminating on signal 15 from pid 7$/);
});

/** The reason reported for a Firecracker with this log; `at` is replaced with the prefix of each line. */
async function reasonOfFirecracker(evidence: Partial<ExitEvidence>, log: string, output = '') {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-exit-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const logPath = join(directory, 'log');
  await writeFile(logPath, log.replaceAll(/^at /gm, '2026-11-28T05:00:00.120934678 '));
  return await reasonFor({ vmm: 'Firecracker', logPath, ...evidence }, '', output);
}

test("a VMM's own log has its last error, and its statuses a meaning", async () => {
  const evidence = { exit: { exitCode: 148 }, statusMeanings: { 148: ': it was refused' } };
  const log = 'at [sb1:main:ERROR] first\nat \0\0[sb1:fc_vcpu 0:ERROR] shutting down\n';
  const { reason } = await reasonOfFirecracker(evidence, log, 'printed\n');
  expect(reason).toBe(
    'Firecracker exited with status 148: it was refused. Its last error: shutting down',
  );
});

test('a routine warning is not quoted as the reason why a VMM was killed', async () => {
  const killed = { exit: { signal: 'SIGKILL' } };
  const because =
    /^\w+ was terminated by SIGKILL, sent by hand or by the kernel because memory ran out\.$/;
  for (const routine of [
    'at [sb1:fc_vcpu 0:WARN] Invalid MMIO read @ 0xfffffffc:0x4: Failed to find address range.\n',
    'at [sb1:main:WARN:src/vmm/src/persist.rs:457] Failed to do something optional: error 2\n',
    'at [anonymous-instance:main] Running Firecracker v1.16.1\n',
    'at [sb1:main:INFO] Successfully started microvm\nRunning Firecracker v1.16.1\n',
  ]) {
    expect((await reasonOfFirecracker(killed, routine)).reason, routine).toMatch(because);
  }
  for (const routine of [
    "qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.80000001H:ECX.svm [bit 2]\n",
    'qemu-system-x86_64: -m 2048: warning: memory is rounded\n',
    'qemu-system-x86_64: -accel kvm: info: kvm not available\n',
    '(qemu-system-x86_64:4711): GLib-WARNING **: 05:00:00.000: no error at all\n',
  ]) {
    expect((await reasonFor(killed, '', routine)).reason, routine).toMatch(because);
  }
});

test('an error is found before the routine lines that follow it', async () => {
  const failed = { exit: { exitCode: 1 } };
  const log = [
    'at [sb1:main:ERROR] RunWithApi error: no such tap',
    'at [sb1:main:WARN] something else',
    'at [sb1:main:ERROR] Firecracker exiting with error. exit_code=1\n',
  ].join('\n');
  const { reason } = await reasonOfFirecracker(failed, log, 'Error: RunWithApi(Tap)\n');
  expect(reason).toBe(
    'Firecracker exited with status 1. Its last error: RunWithApi error: no such tap',
  );
  const dump = [
    'KVM internal error. Suberror: 1',
    'extra data[0]: 0x000000008000002f',
    'RAX=0000000000000000 RBX=0000000000000000',
    'R8 =0000000000000009 R9 =000000000000000b',
    'Code=4d 39 c8 7f\n',
  ];
  const stopped = await reasonFor(failed, '', dump.join('\n'));
  expect(stopped.reason).toMatch(/ Its last error: KVM internal error\. Suberror: 1$/);
  const panic =
    "thread 'main' panicked at src/vmm.rs:1:2:\nno memory\nnote: run with `RUST_BACKTRACE=1`\n";
  expect((await reasonFor(failed, '', panic)).reason).toMatch(/ Its last error: no memory$/);
});
