import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isProcessAlive } from '@torpor/linux';
import {
  findQemu,
  killLeftovers,
  kvmObstacle,
  PROBE_MESSAGE,
  type ProbeOptions,
  probeAccelerator,
  probeInitramfs,
  QemuDriver,
} from '@torpor/vmm';
import { type ProbeBootOptions, probeBoot } from '@torpor/vmm/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { MachineBench } from './machines.ts';
import { makeTestGuest, type TestGuest } from './test-guest.ts';

let bench: MachineBench;
let guest: TestGuest;
let options: ProbeOptions;

beforeAll(async () => {
  bench = await MachineBench.create();
  guest = await makeTestGuest(bench.directory, 'vmlinux');
  const stateDirectory = join(bench.directory, 'state');
  options = {
    qemu: await findQemu(process.env.TORPOR_QEMU),
    kernelPath: guest.kernelPath,
    stateDirectory,
  };
});

afterAll(async () => {
  await bench[Symbol.asyncDispose]();
});

test('the probe guest reaches user mode, prints its message and resets the machine', async () => {
  const initramfsPath = join(bench.directory, 'probe.cpio');
  await writeFile(initramfsPath, probeInitramfs());
  const probeGuest = { kernelPath: guest.kernelPath, initramfsPath };
  const driver = new QemuDriver({ qemu: options.qemu, accelerator: 'tcg' });
  const vm = bench.track(await driver.start(await bench.spec(probeGuest, 'probe')));
  const { reason, consoleTail } = await vm.exited;
  expect(consoleTail).toContain(PROBE_MESSAGE);
  expect(reason).toBe('The guest rebooted, which stops its machine.');
});

test('a probe chooses, gives its reason, leaves nothing, and its result is stored', async () => {
  const processesBefore = await machines();
  const choice = await probeAccelerator(options);
  expect(await machines()).toEqual(processesBefore);
  expect(choice.forced).toBe(false);
  expect(choice.reason).toMatch(choice.accelerator === 'kvm' ? /took .* s under KVM/ : /KVM|kvm/);
  const noProbe = () => expect.fail('what is remembered is probed');
  expect(await probeAccelerator({ ...options, onProbe: noProbe })).toEqual(choice);
});

describe('a probe boot', () => {
  const LIMITS = { silenceMs: 60_000, totalMs: 240_000 };
  const boot = (change: Partial<ProbeBootOptions>, signal = new AbortController().signal) =>
    probeBoot('tcg', { ...options, limits: LIMITS, ...change }, signal);

  test('reports how long the guest took', async () => {
    expect(await boot({})).toEqual({ kind: 'booted', bootMs: expect.any(Number) });
  });

  test('is stopped when the console is silent', async () => {
    const limits = { ...LIMITS, silenceMs: 100 };
    expect(await boot({ limits })).toEqual({
      kind: 'timed-out',
      reason: expect.stringMatching(/^it printed nothing (?:at all|after \d+\.\d s) for 0\.1 s$/),
    });
  });

  test('is stopped after its whole time, even while it prints', async () => {
    const limits = { ...LIMITS, totalMs: 200 };
    expect(await boot({ limits })).toEqual({
      kind: 'timed-out',
      reason: 'it had not finished after 0.2 s',
    });
  });

  test('reports a guest that dies', async () => {
    const kernelArguments = ['rdinit=/nonexistent', 'root=/dev/nonexistent'];
    expect(await boot({ kernelArguments })).toMatchObject({
      kind: 'failed',
      reason: expect.stringContaining('kernel panicked'),
    });
  });

  test('reports why no machine starts', async () => {
    expect(await boot({ kernelPath: '/nonexistent/kernel' })).toEqual({
      kind: 'refused',
      reason: expect.stringContaining('/nonexistent/kernel'),
    });
  });

  test('returns when it is stopped', async () => {
    expect(await boot({}, AbortSignal.abort())).toEqual({ kind: 'stopped' });
  });
});

/** If KVM cannot be tried, nothing is probed or stored. */
const mayHaveKvm = (await kvmObstacle()) === undefined;

describe.runIf(mayHaveKvm)('a stored result', () => {
  const PAST = '2026-01-01T00:00:00.000Z';
  const said = { accelerator: 'kvm', reason: 'Said so.', probedAt: PAST, probedAgainAt: null };
  const result = { ...said, bootMs: { kvm: 600, tcg: null } };
  /** A QEMU that exits at once, so that a probe takes no time. */
  const refused = () => ({ ...options, qemu: { ...options.qemu, path: '/bin/false' } });
  const path = () => join(options.stateDirectory, 'accelerator.json');
  let key: string;

  const remember = (change: object, version = 2) =>
    writeFile(path(), JSON.stringify({ version, results: { [key]: { ...result, ...change } } }));

  beforeAll(async () => {
    await probeAccelerator({ ...refused(), refresh: true });
    key = String(Object.keys(JSON.parse(await readFile(path(), 'utf8')).results)[0]);
  });

  test('names what can change it', () => {
    expect(key).toContain(`qemu ${options.qemu.version}`);
    expect(key).toContain(options.kernelPath);
  });

  test('is used without a probe, and reported with its figures', async () => {
    await remember({});
    expect(await probeAccelerator(refused())).toEqual({ ...result, forced: false });
  });

  test('of a failed probe is valid for an hour', async () => {
    const before = Date.now();
    const choice = await probeAccelerator({ ...refused(), refresh: true });
    expect(choice).toMatchObject({ accelerator: 'tcg', bootMs: { kvm: null, tcg: null } });
    expect(choice.reason).toMatch(/no machine starts under it: .*torpor doctor --probe/);
    expect(Date.parse(String(choice.probedAgainAt)) - before).toBeGreaterThanOrEqual(3_600_000);
    expect(await probeAccelerator(refused())).toEqual(choice);
  });

  test.each([
    ['is over its time', { probedAgainAt: '2026-01-01T01:00:00.000Z' }, 2],
    [
      'is from the future',
      { probedAt: '2999-01-01T00:00:00.000Z', probedAgainAt: '2999-01-01T01:00:00.000Z' },
      2,
    ],
    ['is of an earlier format', {}, 1],
    ['is torn', { probedAt: 'half' }, 2],
  ])('is not valid if it %s', async (_what, change, version) => {
    await remember(change, version);
    expect(await probeAccelerator(refused())).toMatchObject({ accelerator: 'tcg' });
  });

  test('is valid only for the same kernel', async () => {
    await remember({});
    const kernelPath = join(bench.directory, 'other-kernel');
    await writeFile(kernelPath, 'not a kernel');
    expect(await probeAccelerator({ ...refused(), kernelPath })).toMatchObject({
      accelerator: 'tcg',
    });
    expect(Object.keys(JSON.parse(await readFile(path(), 'utf8')).results)).toHaveLength(2);
  });
});

test('a setting decides without a probe', async () => {
  const stateDirectory = join(bench.directory, 'unused');
  const choice = await probeAccelerator({ ...options, stateDirectory, forced: 'tcg' });
  expect(choice).toEqual({
    accelerator: 'tcg',
    reason: 'Forced by the setting accelerator = tcg.',
    probedAt: null,
    probedAgainAt: null,
    bootMs: null,
    forced: true,
  });
  await expect(readdir(stateDirectory)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a VMM whose driver was killed before it recorded the pid is found by its run directory', async () => {
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

test('a machine that was adopted and released can still be killed', async () => {
  const driver = new QemuDriver({ qemu: options.qemu, accelerator: 'tcg' });
  const vm = bench.track(await driver.start(await bench.spec(guest, 'guest=count')));
  await vm.detach();
  const adopted = await driver.adopt(vm.description);
  await adopted?.detach();
  await adopted?.kill();
  expect((await adopted?.exited)?.reason).toBe('The machine was killed.');
  expect(isProcessAlive(vm.description)).toBe(false);
});

/** The command lines of the probe's machines. */
async function machines(): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (commandLine.includes('accelerator-probe')) found.push(commandLine);
  }
  return found;
}
