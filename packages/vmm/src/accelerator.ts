import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { access, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { cpus, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import type { Accelerator, MachineSpec, MicroVm } from './driver.ts';
import { PROBE_WORDS, probeInitramfs } from './probe-guest.ts';
import type { QemuInstallation } from './qemu/find-qemu.ts';
import { QemuDriver } from './qemu/qemu-driver.ts';

// `/dev/kvm` that opens is not KVM that works: there are nested and
// paravirtual hosts on which a stock kernel dies or crawls under KVM. So the
// accelerator is chosen by booting the very kernel that the guests will run,
// and the result is remembered for as long as nothing changes that could
// change it.

/** Which accelerator is used, and why. */
export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** One sentence for a person. */
  readonly reason: string;
  /** RFC 3339; null where no probe boot was needed. */
  readonly probedAt: string | null;
  /** Whether a setting decided. */
  readonly forced: boolean;
}

export interface ProbeOptions {
  readonly qemu: QemuInstallation;
  /** The guest's kernel, a bzImage. */
  readonly kernelPath: string;
  /** Results are remembered here; made if it does not exist. */
  readonly stateDirectory: string;
  /** Decides without a probe. */
  readonly forced?: Accelerator | undefined;
  /** Probe again, whatever is remembered. */
  readonly refresh?: boolean;
  /** How long the probe boot may take, {@link DEFAULT_TIME_LIMIT_MS} unless told. */
  readonly timeLimitMs?: number;
}

/** KVM on hardware needs about 1 s; KVM inside an emulated machine, the slowest that is of use, about 4 s. */
const DEFAULT_TIME_LIMIT_MS = 12_000;
const PROBE_MEMORY_MIB = 128;
const POLL_MS = 50;
const KVM_DEVICE = '/dev/kvm';
const RESULTS_FILE = 'accelerator.json';
/** Machines change their kernel now and then; what is older than so many changes is of no use. */
const MAX_REMEMBERED = 16;

const resultSchema = z.strictObject({
  accelerator: z.enum(['kvm', 'tcg']),
  reason: z.string(),
  probedAt: z.string(),
});
const resultsSchema = z.strictObject({
  version: z.literal(1),
  results: z.record(z.string(), resultSchema),
});
type ProbeResult = z.infer<typeof resultSchema>;

/**
 * Chooses the accelerator: as forced, else `tcg` where there is no usable
 * /dev/kvm, else by a probe boot under KVM, whose result is remembered by host
 * kernel, QEMU version, processor and guest kernel. Throws `host_setup` if KVM
 * is forced but cannot be opened.
 */
export async function probeAccelerator(options: ProbeOptions): Promise<AcceleratorChoice> {
  const obstacle = await kvmObstacle();
  if (options.forced === 'kvm' && obstacle !== undefined) {
    throw new TorporError('host_setup', `KVM is forced by a setting, but ${obstacle}.`);
  }
  if (options.forced !== undefined) {
    const reason = `${options.forced} is forced by a setting.`;
    return { accelerator: options.forced, reason, probedAt: null, forced: true };
  }
  if (obstacle !== undefined) {
    const reason = `Pure emulation, because ${obstacle}.`;
    return { accelerator: 'tcg', reason, probedAt: null, forced: false };
  }
  const key = await environmentKey(options);
  const remembered = await readResults(options.stateDirectory);
  const known = options.refresh === true ? undefined : remembered[key];
  if (known !== undefined) return { ...known, forced: false };
  const result = { ...(await probeBoot(options)), probedAt: new Date().toISOString() };
  await writeResults(options.stateDirectory, { ...remembered, [key]: result });
  return { ...result, forced: false };
}

/** Why KVM cannot even be tried, as the end of a sentence; undefined if it can. */
export async function kvmObstacle(): Promise<string | undefined> {
  try {
    await access(KVM_DEVICE, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    return isMissing ? `there is no ${KVM_DEVICE}` : `${KVM_DEVICE} may not be opened by this user`;
  }
}

async function environmentKey({ qemu, kernelPath }: ProbeOptions): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(kernelPath), hash);
  const kernel = hash.digest('hex').slice(0, 16);
  const processor = cpus()[0]?.model ?? 'unknown processor';
  return `${release()} | qemu ${qemu.version} | ${processor} | kernel ${kernel}`;
}

async function probeBoot(options: ProbeOptions): Promise<Omit<ProbeResult, 'probedAt'>> {
  const timeLimitMs = options.timeLimitMs ?? DEFAULT_TIME_LIMIT_MS;
  const startedAt = performance.now();
  await using resources = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-probe-'));
  resources.defer(() => rm(directory, { recursive: true, force: true }));
  const spec = await probeSpec(directory, options.kernelPath);
  const driver = new QemuDriver({
    qemu: options.qemu,
    accelerator: 'kvm',
    startTimeoutMs: timeLimitMs,
  });
  let vm: MicroVm;
  try {
    vm = await driver.start(spec);
  } catch (error) {
    const what = TorporError.from(error).message;
    return { accelerator: 'tcg', reason: `KVM opens but does not start a machine: ${what}` };
  }
  resources.defer(() => vm.kill());
  const failure = await waitForWords(vm, startedAt + timeLimitMs);
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  if (failure === undefined) {
    return { accelerator: 'kvm', reason: `A probe boot under KVM took ${seconds} s.` };
  }
  const reason = `KVM opens, but a probe boot under it failed after ${seconds} s: ${failure}`;
  return { accelerator: 'tcg', reason };
}

async function probeSpec(directory: string, kernelPath: string): Promise<MachineSpec> {
  const initramfsPath = join(directory, 'initramfs');
  await writeFile(initramfsPath, probeInitramfs());
  return {
    id: 'accelerator-probe',
    vcpus: 1,
    memoryMiB: PROBE_MEMORY_MIB,
    kernelPath,
    initramfsPath,
    kernelArguments: ['quiet'],
    drives: [],
    runDirectory: directory,
    memoryFile: join(directory, 'memory'),
    console: { path: join(directory, 'console.log'), maxBytes: 64 * 1024 },
  };
}

/** Undefined when the guest has said the words; otherwise why it has not. */
async function waitForWords(vm: MicroVm, deadline: number): Promise<string | undefined> {
  let ended: string | undefined;
  void vm.exited.then(({ reason }) => {
    ended = reason;
  });
  for (;;) {
    // Asked before the console is read: all of a machine's words are in the log when its end is known.
    const reason = ended;
    if ((await vm.readConsole(64 * 1024)).includes(PROBE_WORDS)) return undefined;
    if (reason !== undefined) return reason;
    if (performance.now() > deadline) return 'the guest did not get to user mode in time.';
    await sleep(POLL_MS);
  }
}

/** A file that cannot be understood counts as empty: the probe is merely made again. */
async function readResults(directory: string): Promise<Record<string, ProbeResult>> {
  try {
    const text = await readFile(join(directory, RESULTS_FILE), 'utf8');
    return resultsSchema.parse(JSON.parse(text)).results;
  } catch {
    return {};
  }
}

async function writeResults(
  directory: string,
  results: Readonly<Record<string, ProbeResult>>,
): Promise<void> {
  const latest = Object.entries(results)
    .sort(([, a], [, b]) => b.probedAt.localeCompare(a.probedAt))
    .slice(0, MAX_REMEMBERED);
  const content = { version: 1, results: Object.fromEntries(latest) };
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, RESULTS_FILE);
  const staged = `${path}.${process.pid}`;
  await writeFile(staged, `${JSON.stringify(content, undefined, 2)}\n`, { mode: 0o600 });
  await rename(staged, path);
}
