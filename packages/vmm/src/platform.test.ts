import { describe, expect, test } from 'vitest';
import { isSamePlatform, restoreObstacle, type VmmPlatform, vmmPlatform } from './platform.ts';

const qemu = vmmPlatform({ driver: 'qemu', vmmVersion: '10.0.2', accelerator: 'tcg' });
const firecracker: VmmPlatform = {
  vmm: 'firecracker',
  vmmVersion: '1.16.1',
  accelerator: 'kvm',
  machine: 'firecracker',
  cpuModel: 'Processor 9000',
};

test('a platform names the machine and the processor that the guest sees', () => {
  expect(qemu).toMatchObject({ vmm: 'qemu', machine: 'microvm,pic=off', cpuModel: 'max' });
  const old = vmmPlatform({ driver: 'qemu', vmmVersion: '7.2.19', accelerator: 'tcg' });
  expect(old.machine).toBe('q35');
  const real = vmmPlatform({
    driver: 'firecracker',
    vmmVersion: '1.16.1',
    accelerator: 'kvm',
  });
  expect(real.machine).toBe('firecracker');
  expect(real.cpuModel).not.toBe('max');
  expect(real.cpuModel).not.toBe('');
});

test('only the same in everything is the same', () => {
  expect(isSamePlatform(qemu, { ...qemu })).toBe(true);
  for (const change of [
    { vmm: 'firecracker' },
    { vmmVersion: '10.0.3' },
    { accelerator: 'kvm' },
    { machine: 'q35' },
    { cpuModel: 'host' },
  ] as const) {
    expect(isSamePlatform(qemu, { ...qemu, ...change })).toBe(false);
  }
});

describe('a saved state', () => {
  test.each([
    [qemu, { vmmVersion: '10.2.0' }],
    [firecracker, {}],
    [firecracker, { vmmVersion: '1.16.0' }],
  ])('of %o is read by %o', (saved, change) => {
    expect(restoreObstacle(saved, { ...saved, ...change })).toBeUndefined();
  });

  test('of Firecracker 1.13 is read by 1.14, which has the same format', () => {
    const [old, next] = [
      { ...firecracker, vmmVersion: '1.13.1' },
      { ...firecracker, vmmVersion: '1.14.0' },
    ];
    expect(restoreObstacle(old, next)).toBeUndefined();
    expect(restoreObstacle(next, firecracker)).toBeDefined();
  });

  test.each([
    [qemu, firecracker, /QEMU 10\.0\.2.*Firecracker 1\.16\.1/, /TORPOR_VMM=qemu/],
    [firecracker, qemu, /Firecracker 1\.16\.1.*QEMU 10\.0\.2/, /TORPOR_VMM=firecracker/],
    [qemu, { ...qemu, vmmVersion: '11.0.0' }, /QEMU 11\.0\.0 cannot read/, /TORPOR_QEMU/],
    [
      qemu,
      { ...qemu, machine: 'q35' },
      /machine type .*uses q35/,
      /version of Torpor that made it/,
    ],
    [
      firecracker,
      { ...firecracker, vmmVersion: '1.17.0-dev' },
      /Firecracker 1\.16\.1, whose saved states Firecracker 1\.17\.0-dev cannot read/,
      /TORPOR_FIRECRACKER to a Firecracker 1\.16\.1/,
    ],
    [qemu, { ...qemu, accelerator: 'kvm' }, /under tcg.*uses kvm/, /TORPOR_ACCELERATOR=tcg/],
    [
      { ...qemu, machine: 'microvm,pic=off' },
      { ...qemu, machine: 'microvm', accelerator: 'kvm' },
      /under tcg.*uses kvm/,
      /TORPOR_ACCELERATOR=tcg/,
    ],
    [
      firecracker,
      { ...firecracker, cpuModel: 'Another' },
      /processor Processor 9000.*has Another/,
      /such a machine/,
    ],
  ] as [VmmPlatform, VmmPlatform, RegExp, RegExp][])(
    'of %o is refused by %o, with what to do',
    (saved, own, what, remedy) => {
      const obstacle = restoreObstacle(saved, own);
      expect(obstacle?.what).toMatch(what);
      expect(obstacle?.remedy).toMatch(remedy);
    },
  );
});
