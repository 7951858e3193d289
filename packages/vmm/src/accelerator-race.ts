import type { Accelerator } from './driver.ts';
import { type ProbeOutcome, seconds } from './probe-boot.ts';

/** How long the probe boot took under each accelerator; null where it did not finish. */
export interface BootTimes {
  readonly kvm: number | null;
  readonly tcg: number | null;
}

/** Which accelerator probe boots are for. */
export interface RaceVerdict {
  readonly accelerator: Accelerator;
  /** One human-readable sentence. */
  readonly reason: string;
  readonly bootMs: BootTimes;
  /** Whether another race on the same machine would have the same result. A time-out is not conclusive. */
  readonly isConclusive: boolean;
}

/** Boots the probe guest under one accelerator until the signal aborts. Never rejects. */
export type Boot = (accelerator: Accelerator, signal: AbortSignal) => Promise<ProbeOutcome>;

/**
 * Boots the same guest under KVM and in emulation at once; the one that finishes first is the
 * faster, and the other is stopped. So the race takes as long as the winner needs, and other
 * load on the machine slows both. A failure of KVM decides it too: only emulation remains, fast
 * or slow.
 */
export async function raceAccelerators(boot: Boot): Promise<RaceVerdict> {
  const stop = new AbortController();
  const kvm = boot('kvm', stop.signal);
  const tcg = boot('tcg', stop.signal);
  try {
    const emulated = await Promise.race([kvm.then(() => undefined), tcg]);
    return emulated?.kind === 'booted' ? emulationWon(emulated.bootMs) : kvmDecides(await kvm);
  } finally {
    stop.abort();
    await Promise.all([kvm, tcg]);
  }
}

function emulationWon(bootMs: number): RaceVerdict {
  return {
    accelerator: 'tcg',
    reason: `A probe boot took ${seconds(bootMs)} in emulation; under KVM, which can be opened, it had not finished by then.`,
    bootMs: { kvm: null, tcg: bootMs },
    isConclusive: true,
  };
}

function kvmDecides(outcome: ProbeOutcome): RaceVerdict {
  if (outcome.kind === 'booted') {
    return {
      accelerator: 'kvm',
      reason: `A probe boot took ${seconds(outcome.bootMs)} under KVM; in emulation it had not finished by then.`,
      bootMs: { kvm: outcome.bootMs, tcg: null },
      isConclusive: true,
    };
  }
  return {
    accelerator: 'tcg',
    reason: `KVM can be opened, but ${failureOf(outcome)}`,
    bootMs: { kvm: null, tcg: null },
    isConclusive: outcome.kind === 'failed',
  };
}

function failureOf(outcome: Exclude<ProbeOutcome, { kind: 'booted' }>): string {
  switch (outcome.kind) {
    case 'refused':
      return `no machine starts under it: ${outcome.reason}`;
    case 'failed':
      return `a probe boot under it failed after ${seconds(outcome.afterMs)}: ${outcome.reason}`;
    case 'timed-out':
      return `a probe boot under it was stopped: ${outcome.reason}.`;
    case 'stopped':
      return 'a probe boot under it was stopped.';
  }
}
