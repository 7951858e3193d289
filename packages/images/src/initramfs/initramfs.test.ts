import { expect, test } from 'vitest';
import { leaveLastPage } from './initramfs.ts';

test.each([4, 64, 68, 3216, 4092, 4096, 4100])(
  'an archive of %d bytes leaves nearly all of its last page to the ACPI tables of the firmware',
  (size) => {
    const archive = Buffer.alloc(size, 'x');
    const padded = leaveLastPage(archive);
    expect(padded.length % 4096).toBeGreaterThan(0);
    expect(padded.length % 4096).toBeLessThanOrEqual(64);
    expect(padded.subarray(0, size).equals(archive)).toBe(true);
    expect(padded.subarray(size).every((byte) => byte === 0)).toBe(true);
  },
);
