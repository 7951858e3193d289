import { describe, expect, it } from 'vitest';
import { programLimits } from './program-groups.ts';

const MIB = 1024 ** 2;

describe('the limits of programs', () => {
  it.each([
    // The memory available to programs in a guest of 128 MiB, 256 MiB, 512 MiB and 8 GiB, and
    // its threads-max.
    [45, 800],
    [157, 1623],
    [417, 3636],
    [7900, 63_000],
  ])('leave room for the daemon and for root with %i MiB and %i threads', (mib, threads) => {
    const { all, unprivileged } = programLimits({ availableBytes: mib * MIB, threads });
    expect(all.memoryBytes).toBeLessThanOrEqual(mib * MIB * 0.99);
    expect(all.memoryBytes).toBeGreaterThan(mib * MIB * 0.7);
    expect(unprivileged.memoryBytes).toBeLessThanOrEqual(all.memoryBytes * 0.995);
    expect(unprivileged.memoryBytes).toBeGreaterThan(all.memoryBytes * 0.9);
    expect(all.pids).toBeLessThanOrEqual(threads * 0.8);
    // RLIMIT_NPROC of an account is half of the threads.
    expect(unprivileged.pids).toBeLessThan(threads / 2);
    expect(unprivileged.pids).toBeLessThan(all.pids);
    expect(unprivileged.pids).toBeGreaterThan(50);
  });
});
