import { constants } from 'node:fs';
import { access, mkdir, readFile, stat } from 'node:fs/promises';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { writeFileAtomically } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import { type BootTimes, raceAccelerators } from './accelerator-race.ts';
import type { Accelerator } from './driver.ts';
import { type ProbeBootOptions, probeBoot } from './probe-boot.ts';

// A `/dev/kvm` that can be opened does not mean that KVM works: on some nested and paravirtual
// hosts a stock kernel crashes under KVM, or is slower than in emulation. So the very kernel
// that the guests will run is booted under both, and the faster one is used. A conclusive
// result is kept until something changes that could change it. An inconclusive one (KVM was not
// available, or a boot timed out) may be due to a busy moment: the race is run again after an
// hour.

/** Which accelerator is used, and why. */
export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** One human-readable sentence. */
  readonly reason: string;
  /** RFC 3339; null where no probe boot was needed. */
  readonly probedAt: string | null;
  /** RFC 3339: when the probe is run again. Null: not before something changes. */
  readonly probedAgainAt: string | null;
  /** Null where no probe boot was needed. */
  readonly bootMs: BootTimes | null;
  /** Whether a setting decided. */
  readonly forced: boolean;
}

export interface ProbeOptions extends ProbeBootOptions {
  /** Results are kept here; created if it does not exist. */
  readonly stateDirectory: string;
  /** The accelerator to use, without a probe. */
  readonly forced?: Accelerator | undefined;
  /** Probe again, even if there is a result. */
  readonly refresh?: boolean | undefined;
  /** Called before a probe that boots, which takes from a second to minutes on a slow machine. */
  readonly onProbe?: (() => void) | undefined;
}

const KVM_DEVICE = '/dev/kvm';
const RESULTS_FILE = 'accelerator.json';
const RESULTS_VERSION = 2;
/** Results for this many environments are kept, the latest ones: hosts change their kernel now and then. */
const MAX_REMEMBERED = 16;
/** For this long, starts do not wait again for a KVM that does not work. */
const INCONCLUSIVE_FOR_MS = 60 * 60_000;

const milliseconds = z.number().nonnegative().nullable();
const resultSchema = z.strictObject({
  accelerator: z.enum(['kvm', 'tcg']),
  reason: z.string(),
  probedAt: z.iso.datetime(),
  probedAgainAt: z.iso.datetime().nullable(),
  bootMs: z.strictObject({ kvm: milliseconds, tcg: milliseconds }),
});
const resultsSchema = z.strictObject({
  version: z.literal(RESULTS_VERSION),
  results: z.record(z.string(), resultSchema),
});
type ProbeResult = z.infer<typeof resultSchema>;

/**
 * Chooses the accelerator: as forced, else `tcg` where there is no usable /dev/kvm, else by
 * probe boots, whose result is kept by host kernel, QEMU version, processor and guest kernel.
 * Throws `host_setup` if KVM is forced but cannot be opened.
 */
export async function probeAccelerator(options: ProbeOptions): Promise<AcceleratorChoice> {
  const obstacle = await kvmObstacle();
  if (options.forced === 'kvm' && obstacle !== undefined) {
    throw new TorporError(
      'host_setup',
      `KVM is forced by the setting accelerator, but ${obstacle}.`,
    );
  }
  if (options.forced !== undefined) return forcedChoice(options.forced);
  if (obstacle !== undefined) return emulationBecause(obstacle);
  const key = await environmentKey(options);
  const remembered = await readResults(options.stateDirectory);
  const known = options.refresh === true ? undefined : remembered[key];
  if (known !== undefined && isCurrent(known)) return { ...known, forced: false };
  options.onProbe?.();
  const result = await probe(options);
  await writeResults(options.stateDirectory, { ...remembered, [key]: result });
  return { ...result, forced: false };
}

/** The choice where a setting forces an accelerator. */
export function forcedChoice(accelerator: Accelerator): AcceleratorChoice {
  return {
    accelerator,
    reason: `Forced by the setting accelerator = ${accelerator}.`,
    ...UNPROBED,
    forced: true,
  };
}

/** The choice where KVM cannot even be tried, by what {@link kvmObstacle} returned. */
export function emulationBecause(obstacle: string): AcceleratorChoice {
  const reason = `Pure emulation, because ${obstacle}.`;
  return { accelerator: 'tcg', reason, ...UNPROBED, forced: false };
}

const UNPROBED = { probedAt: null, probedAgainAt: null, bootMs: null };

/** Why KVM cannot even be tried, as the end of a sentence; undefined if it can. */
export async function kvmObstacle(): Promise<string | undefined> {
  try {
    await access(KVM_DEVICE, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    return isMissing
      ? `there is no ${KVM_DEVICE}`
      : `this user is not allowed to open ${KVM_DEVICE}`;
  }
}

/** What can change the result. A kernel is known by its file, which is never written to again. */
async function environmentKey({ qemu, kernelPath }: ProbeOptions): Promise<string> {
  const { size, mtime } = await stat(kernelPath);
  const processor = cpus()[0]?.model ?? 'unknown processor';
  const kernel = `${kernelPath} of ${mtime.toISOString()} with ${size} bytes`;
  return `${release()} | qemu ${qemu.version} | ${processor} | kernel ${kernel}`;
}

async function probe(options: ProbeBootOptions): Promise<ProbeResult> {
  const verdict = await raceAccelerators((accelerator, signal) =>
    // An error around a boot says nothing about the other accelerator.
    probeBoot(accelerator, options, signal).catch((error: unknown) => ({
      kind: 'refused',
      reason: TorporError.from(error).message,
    })),
  );
  const { accelerator, bootMs, isConclusive } = verdict;
  const now = Date.now();
  const again = new Date(now + INCONCLUSIVE_FOR_MS).toISOString();
  return {
    accelerator,
    reason: isConclusive
      ? verdict.reason
      : `${verdict.reason} It is tried again after ${again}, or now by \`torpor doctor --probe\`.`,
    probedAt: new Date(now).toISOString(),
    probedAgainAt: isConclusive ? null : again,
    bootMs,
  };
}

/** A clock that was set back must not keep a result forever. */
function isCurrent({ probedAt, probedAgainAt }: ProbeResult): boolean {
  const now = Date.now();
  return probedAgainAt === null || (Date.parse(probedAt) <= now && now < Date.parse(probedAgainAt));
}

/** A file that cannot be parsed counts as empty: the probe is merely run again. */
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
  const content = { version: RESULTS_VERSION, results: Object.fromEntries(latest) };
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const text = `${JSON.stringify(content, undefined, 2)}\n`;
  await writeFileAtomically(join(directory, RESULTS_FILE), text);
}
