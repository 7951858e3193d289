import { describe, expect, test } from 'vitest';
import { type Boot, raceAccelerators } from './accelerator-race.ts';
import type { Accelerator } from './driver.ts';
import type { ProbeOutcome } from './probe-boot.ts';

const QUICK: ProbeOutcome = { kind: 'booted', bootMs: 640 };
const SLOW: ProbeOutcome = { kind: 'booted', bootMs: 4_200 };
const FAILED: ProbeOutcome = { kind: 'failed', reason: 'The guest rebooted.', afterMs: 900 };
const REFUSED: ProbeOutcome = { kind: 'refused', reason: 'Device or resource busy.' };
const SILENT: ProbeOutcome = {
  kind: 'timed-out',
  reason: 'it printed nothing at all for 30.0 s',
};

/** A race with the given outcomes; `never` is a boot that runs until it is stopped. */
async function race(outcomes: Readonly<Record<Accelerator, ProbeOutcome | 'never'>>) {
  const stopped: Accelerator[] = [];
  const boot: Boot = (accelerator, signal) => {
    const outcome = outcomes[accelerator];
    if (outcome !== 'never') return Promise.resolve(outcome);
    return new Promise((resolve) => {
      signal.addEventListener('abort', () => {
        stopped.push(accelerator);
        resolve({ kind: 'stopped' });
      });
    });
  };
  return { ...(await raceAccelerators(boot)), stopped };
}

describe('the faster accelerator is chosen, and the other stopped', () => {
  test('KVM that is first', async () => {
    expect(await race({ kvm: QUICK, tcg: 'never' })).toEqual({
      accelerator: 'kvm',
      reason: 'A probe boot took 0.6 s under KVM; in emulation it had not finished by then.',
      bootMs: { kvm: 640, tcg: null },
      isConclusive: true,
      stopped: ['tcg'],
    });
  });

  test('emulation, where KVM works but is slower', async () => {
    expect(await race({ kvm: 'never', tcg: SLOW })).toEqual({
      accelerator: 'tcg',
      reason:
        'A probe boot took 4.2 s in emulation; under KVM, which can be opened, it had not finished by then.',
      bootMs: { kvm: null, tcg: 4_200 },
      isConclusive: true,
      stopped: ['kvm'],
    });
  });

  test.each([FAILED, REFUSED, SILENT])(
    'KVM, however late, where emulation fails: $kind',
    async (tcg) => {
      expect(await race({ kvm: SLOW, tcg })).toMatchObject({
        accelerator: 'kvm',
        isConclusive: true,
      });
    },
  );
});

describe('a KVM that fails is not used', () => {
  test('a boot that fails is conclusive', async () => {
    expect(await race({ kvm: FAILED, tcg: 'never' })).toMatchObject({
      accelerator: 'tcg',
      reason:
        'KVM can be opened, but a probe boot under it failed after 0.9 s: The guest rebooted.',
      isConclusive: true,
      stopped: ['tcg'],
    });
  });

  test.each([
    [REFUSED, 'KVM can be opened, but no machine starts under it: Device or resource busy.'],
    [
      SILENT,
      'KVM can be opened, but a probe boot under it was stopped: it printed nothing at all for 30.0 s.',
    ],
  ])('but $kind is not conclusive', async (kvm, reason) => {
    expect(await race({ kvm, tcg: 'never' })).toMatchObject({
      accelerator: 'tcg',
      reason,
      isConclusive: false,
    });
  });

  test('also where emulation failed first', async () => {
    expect(await race({ kvm: SILENT, tcg: FAILED })).toMatchObject({
      accelerator: 'tcg',
      isConclusive: false,
    });
  });
});
