import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isProcessAlive } from '@torpor/linux';
import {
  findQemu,
  killLeftovers,
  PROBE_WORDS,
  type ProbeOptions,
  probeAccelerator,
  probeInitramfs,
  QemuDriver,
} from '@torpor/vmm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MachineBench } from './machines.ts';
import { makeTestGuest, type TestGuest } from './test-guest.ts';

let bench: MachineBench;
let guest: TestGuest;
let options: ProbeOptions;

beforeAll(async () => {
  bench = await MachineBench.create();
  guest = await makeTestGuest(bench.directory, 'bzImage');
  const stateDirectory = join(bench.directory, 'state');
  options = { qemu: await findQemu(), kernelPath: guest.kernelPath, stateDirectory };
});

afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

test('the probe guest gets to user mode, says its words and resets the machine', async () => {
  const initramfsPath = join(bench.directory, 'probe.cpio');
  await writeFile(initramfsPath, probeInitramfs());
  const probeGuest = { kernelPath: guest.kernelPath, initramfsPath };
  const driver = new QemuDriver({ qemu: options.qemu, accelerator: 'tcg' });
  const vm = bench.track(await driver.start(await bench.spec(probeGuest, 'probe')));
  const { reason, consoleTail } = await vm.exited;
  expect(consoleTail).toContain(PROBE_WORDS);
  expect(reason).toBe('The guest rebooted, which ends its machine.');
});

test('a probe chooses, explains itself, leaves nothing, and is remembered', async () => {
  const processesBefore = await machines();
  const choice = await probeAccelerator(options);
  expect(await machines()).toEqual(processesBefore);
  expect(choice.forced).toBe(false);
  expect(choice.reason).toMatch(choice.accelerator === 'kvm' ? /took .* s\.$/ : /KVM|kvm/);
  expect(await probeAccelerator(options)).toEqual(choice);
});

test('what is remembered counts for the same kernel only, and a torn file counts as none', async () => {
  const now = '2026-01-01T00:00:00.000Z';
  const path = join(options.stateDirectory, 'accelerator.json');
  const first = await probeAccelerator(options);
  if (first.probedAt === null) {
    expect(first.accelerator).toBe('tcg');
    return;
  }
  const remembered = JSON.parse(await readFile(path, 'utf8'));
  const [key] = Object.keys(remembered.results);
  expect(key).toContain(`qemu ${options.qemu.version}`);
  const results = { [String(key)]: { accelerator: 'kvm', reason: 'Said so.', probedAt: now } };
  await writeFile(path, JSON.stringify({ version: 1, results }));
  expect(await probeAccelerator(options)).toMatchObject({ accelerator: 'kvm', probedAt: now });
  const other = join(bench.directory, 'other-kernel');
  await writeFile(other, 'not a kernel');
  const changed = await probeAccelerator({ ...options, kernelPath: other, timeLimitMs: 1_000 });
  expect(changed.accelerator).toBe('tcg');
  expect(changed.probedAt).not.toBe(now);
  await writeFile(path, '{"version":');
  const again = await probeAccelerator({ ...options, kernelPath: other, timeLimitMs: 1_000 });
  expect(again.accelerator).toBe('tcg');
  expect(Object.keys(JSON.parse(await readFile(path, 'utf8')).results)).toHaveLength(1);
});

test('a setting decides without a probe', async () => {
  const stateDirectory = join(bench.directory, 'unused');
  const choice = await probeAccelerator({ ...options, stateDirectory, forced: 'tcg' });
  expect(choice).toEqual({
    accelerator: 'tcg',
    reason: 'tcg is forced by a setting.',
    probedAt: null,
    forced: true,
  });
  await expect(readdir(stateDirectory)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a VMM whose driver died before it told anybody is found by its run directory', async () => {
  const driver = new QemuDriver({ qemu: options.qemu, accelerator: 'tcg' });
  const spec = await bench.spec(guest, 'guest=count');
  const vm = bench.track(await driver.start(spec));
  const { pid, startTimeTicks } = vm.description;
  await vm.detach();
  expect(await killLeftovers(`${spec.runDirectory}-other`)).toEqual([]);
  expect(await killLeftovers(spec.runDirectory)).toEqual([{ pid, startTimeTicks }]);
  await vm.exited;
  expect(await killLeftovers(spec.runDirectory)).toEqual([]);
});

test('a machine that was taken over and let go can still be killed', async () => {
  const driver = new QemuDriver({ qemu: options.qemu, accelerator: 'tcg' });
  const vm = bench.track(await driver.start(await bench.spec(guest, 'guest=count')));
  await vm.detach();
  const adopted = await driver.adopt(vm.description);
  await adopted?.detach();
  await adopted?.kill();
  expect((await adopted?.exited)?.reason).toBe('The machine was killed.');
  expect(isProcessAlive(vm.description)).toBe(false);
});

/** Command lines of the probe's machines. */
async function machines(): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (commandLine.includes('accelerator-probe')) found.push(commandLine);
  }
  return found;
}
