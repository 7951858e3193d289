import { access, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { Accelerator, MachineSpec, MicroVm } from './driver.ts';
import { PROBE_MESSAGE, probeInitramfs } from './probe-guest.ts';
import type { QemuInstallation } from './qemu/find-qemu.ts';
import { QemuDriver } from './qemu/qemu-driver.ts';

/** What a probe boot boots, and how long it may take. */
export interface ProbeBootOptions {
  readonly qemu: QemuInstallation;
  /** The kernel that guests boot in QEMU, in the same format. */
  readonly kernelPath: string;
  /** The kernel command line of guests. */
  readonly kernelArguments?: readonly string[];
  readonly limits?: ProbeLimits;
}

export interface ProbeLimits {
  /** How long the console may be silent. */
  readonly silenceMs: number;
  /** How long a boot that keeps printing may take in all. */
  readonly totalMs: number;
}

/** How a probe boot went. */
export type ProbeOutcome =
  | { readonly kind: 'booted'; readonly bootMs: number }
  /** QEMU did not get as far as running the guest. */
  | { readonly kind: 'refused'; readonly reason: string }
  /** The guest ran, and its machine stopped before it got to user mode. */
  | { readonly kind: 'failed'; readonly reason: string; readonly afterMs: number }
  /** It was stopped after a time limit, without a result. */
  | { readonly kind: 'timed-out'; readonly reason: string }
  | { readonly kind: 'stopped' };

/** The longest silence of a boot that succeeds is some 40 % of its length, and the slowest that
 * won took 99 s: KVM in an emulated machine on a loaded host. Being generous costs nothing
 * where emulation works, since its finish stops the other.
 */
const DEFAULT_LIMITS: ProbeLimits = { silenceMs: 120_000, totalMs: 600_000 };
const PROBE_MEMORY_MIB = 128;
const POLL_MS = 25;
const CONSOLE_BYTES = 64 * 1024;
const SHARED_MEMORY = '/dev/shm';
/**
 * About 1,400 bytes over the whole of a boot: enough to see that it makes progress. All
 * messages are twelve times as many, and each byte costs two exits to QEMU, which would measure
 * the serial port of a nested KVM rather than the guest.
 */
const VERBOSITY = 'loglevel=6';

/**
 * Boots the probe guest under one accelerator. Only a boot that
 * prints nothing for too long is stopped before its whole time has passed. The outcome is
 * `stopped` when the signal aborts. Leaves nothing behind.
 */
export async function probeBoot(
  accelerator: Accelerator,
  options: ProbeBootOptions,
  signal: AbortSignal,
): Promise<ProbeOutcome> {
  await using resources = new AsyncDisposableStack();
  const directory = await mkdtemp(join(await memoryDirectory(), 'torpor-probe-'));
  resources.defer(() => rm(directory, { recursive: true, force: true }));
  const driver = new QemuDriver({ qemu: options.qemu, accelerator });
  let vm: MicroVm;
  try {
    vm = await driver.start(await probeSpec(directory, options));
  } catch (error) {
    return { kind: 'refused', reason: TorporError.from(error).message };
  }
  resources.defer(() => vm.kill());
  return await watchBoot(vm, options.limits ?? DEFAULT_LIMITS, signal);
}

/** On tmpfs, like the RAM of guests. */
async function memoryDirectory(): Promise<string> {
  return access(SHARED_MEMORY).then(
    () => SHARED_MEMORY,
    () => tmpdir(),
  );
}

async function probeSpec(
  directory: string,
  { kernelPath, kernelArguments = [] }: ProbeBootOptions,
): Promise<MachineSpec> {
  const initramfsPath = join(directory, 'initramfs');
  await writeFile(initramfsPath, probeInitramfs());
  return {
    id: 'accelerator-probe',
    vcpus: 1,
    memoryMiB: PROBE_MEMORY_MIB,
    kernelPath,
    initramfsPath,
    kernelArguments: [...kernelArguments, VERBOSITY],
    drives: [],
    runDirectory: directory,
    memoryFile: join(directory, 'memory'),
    console: { path: join(directory, 'console.log'), maxBytes: CONSOLE_BYTES },
  };
}

async function watchBoot(
  vm: MicroVm,
  { silenceMs, totalMs }: ProbeLimits,
  signal: AbortSignal,
): Promise<ProbeOutcome> {
  const startedAt = performance.now();
  let exitReason: string | undefined;
  void vm.exited.then(({ reason }) => {
    exitReason = reason;
  });
  let printed = 0;
  let printedAt = startedAt;
  while (!signal.aborted) {
    // Read before the console: all that a guest printed is in the log once its VMM has exited.
    const reason = exitReason;
    const console = await vm.readConsole(CONSOLE_BYTES);
    const now = performance.now();
    const elapsedMs = now - startedAt;
    if (console.includes(PROBE_MESSAGE)) return { kind: 'booted', bootMs: Math.round(elapsedMs) };
    if (reason !== undefined) return { kind: 'failed', reason, afterMs: Math.round(elapsedMs) };
    if (console.length !== printed) [printed, printedAt] = [console.length, now];
    if (now - printedAt > silenceMs) {
      const when = printed === 0 ? 'at all' : `after ${seconds(printedAt - startedAt)}`;
      const what = `it printed nothing ${when} for ${seconds(silenceMs)}`;
      return { kind: 'timed-out', reason: what };
    }
    if (elapsedMs > totalMs) {
      return { kind: 'timed-out', reason: `it had not finished after ${seconds(totalMs)}` };
    }
    await sleep(POLL_MS);
  }
  return { kind: 'stopped' };
}

/** Human-readable: `0.6 s`. */
export function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}
