import { TorporError } from '@torpor/protocol';
import type { AcceleratorChoice } from '@torpor/vmm';
import { describe, expect, test } from 'vitest';
import { chooseVmm, type HostProbes, type VmmChoiceOptions } from './vmm-choice.ts';

const QEMU = { path: '/usr/bin/qemu', version: '10.0.2', machineType: 'microvm' } as const;
const FIRECRACKER = { path: '/opt/firecracker', version: '1.16.1' };

interface Machine {
  readonly qemu?: boolean;
  readonly firecracker?: boolean;
  /** Whether /dev/kvm can be opened, and whether a guest runs under it. */
  readonly kvm?: 'missing' | 'broken' | 'working';
}

/** A host with the given programs; records what was looked for. */
function hostWith({ qemu = true, firecracker = true, kvm = 'working' }: Machine) {
  const asked: string[] = [];
  const missing = (what: string) => {
    throw new TorporError('host_setup', `${what} is not installed.`, { remedy: `Get ${what}.` });
  };
  const probes: HostProbes = {
    findQemu: async () => {
      asked.push('qemu');
      return qemu ? QEMU : missing('QEMU');
    },
    findFirecracker: async () => {
      asked.push('firecracker');
      return firecracker ? FIRECRACKER : missing('Firecracker');
    },
    kvmObstacle: async () => (kvm === 'missing' ? 'there is no /dev/kvm' : undefined),
    probeAccelerator: async ({ forced }) => {
      asked.push('probe');
      const accelerator = forced ?? (kvm === 'working' ? 'kvm' : 'tcg');
      const reason = accelerator === 'kvm' ? 'A probe boot worked.' : 'A probe boot failed.';
      const unprobed = { probedAt: null, probedAgainAt: null, bootMs: null };
      return { accelerator, reason, ...unprobed, forced: forced !== undefined };
    },
  };
  return { probes, asked };
}

function choose(options: Partial<VmmChoiceOptions>, machine: Machine) {
  const { probes, asked } = hostWith(machine);
  const complete = { kernelPath: '/kernel', stateDirectory: '/state', ...options };
  return { asked, choice: chooseVmm(complete, probes) };
}

describe('by itself', () => {
  test('Firecracker is chosen where there is one and KVM works', async () => {
    const { choice } = choose({}, {});
    expect(await choice).toMatchObject({
      installation: { kind: 'firecracker', firecracker: FIRECRACKER },
      platform: {
        vmm: 'firecracker',
        vmmVersion: '1.16.1',
        accelerator: 'kvm',
        machine: 'firecracker',
      },
      reason: 'Firecracker is installed (/opt/firecracker), and KVM works.',
    });
  });

  test.each(['missing', 'broken'] as const)('QEMU is chosen where KVM is %s', async (kvm) => {
    const { choice } = choose({}, { kvm });
    expect(await choice).toMatchObject({
      installation: { kind: 'qemu', qemu: QEMU },
      platform: {
        vmm: 'qemu',
        vmmVersion: '10.0.2',
        accelerator: 'tcg',
        machine: 'microvm,pic=off',
      },
      reason: expect.stringContaining('Firecracker needs a working KVM'),
    });
  });

  test('QEMU is chosen where there is no Firecracker, with that as the reason', async () => {
    const { choice } = choose({}, { firecracker: false });
    const { platform, reason, accelerator } = await choice;
    expect(platform).toMatchObject({ vmm: 'qemu', accelerator: 'kvm' });
    expect(reason).toBe('Firecracker is not installed.');
    expect(accelerator satisfies AcceleratorChoice).toMatchObject({ accelerator: 'kvm' });
  });

  test('an unexpected failure is not taken for a missing program', async () => {
    const { probes } = hostWith({});
    const findFirecracker = async () => Promise.reject(new Error('EMFILE'));
    const options = { kernelPath: '', stateDirectory: '' };
    await expect(chooseVmm(options, { ...probes, findFirecracker })).rejects.toThrow('EMFILE');
  });

  test('QEMU is chosen where pure emulation is forced', async () => {
    const { choice } = choose({ forcedAccelerator: 'tcg' }, {});
    expect(await choice).toMatchObject({
      platform: { vmm: 'qemu', accelerator: 'tcg' },
      accelerator: { forced: true },
    });
  });
});

describe('QEMU, forced', () => {
  test('is chosen whatever else is installed, and nothing else is looked for', async () => {
    const { choice, asked } = choose({ setting: 'qemu' }, {});
    expect(await choice).toMatchObject({
      platform: { vmm: 'qemu', accelerator: 'kvm' },
      reason: 'Forced by the setting vmm = qemu.',
    });
    expect(asked).not.toContain('firecracker');
  });

  test('must be installed', async () => {
    const { choice } = choose({ setting: 'qemu' }, { qemu: false });
    await expect(choice).rejects.toMatchObject({ code: 'host_setup', remedy: 'Get QEMU.' });
  });
});

describe('Firecracker, forced', () => {
  test('is chosen where KVM works', async () => {
    const { choice } = choose({ setting: 'firecracker' }, {});
    expect(await choice).toMatchObject({
      platform: { vmm: 'firecracker' },
      reason: 'Forced by the setting vmm = firecracker.',
    });
  });

  test('must be installed', async () => {
    const { choice } = choose({ setting: 'firecracker' }, { firecracker: false });
    await expect(choice).rejects.toMatchObject({ code: 'host_setup', remedy: 'Get Firecracker.' });
  });

  test.each([
    ['missing', /there is no \/dev\/kvm/],
    ['broken', /A probe boot failed/],
  ] as const)('is refused where KVM is %s', async (kvm, message) => {
    const { choice } = choose({ setting: 'firecracker' }, { kvm });
    await expect(choice).rejects.toMatchObject({
      code: 'host_setup',
      message: expect.stringMatching(message),
      remedy: expect.stringContaining('TORPOR_VMM'),
    });
  });

  test('and pure emulation, forced too, contradict each other', async () => {
    const { choice } = choose({ setting: 'firecracker', forcedAccelerator: 'tcg' }, {});
    await expect(choice).rejects.toMatchObject({
      code: 'host_setup',
      message: expect.stringContaining('accelerator = tcg'),
      remedy: expect.stringContaining('TORPOR_ACCELERATOR'),
    });
  });

  test('and KVM, forced too, do not need QEMU', async () => {
    const { choice, asked } = choose(
      { setting: 'firecracker', forcedAccelerator: 'kvm' },
      { qemu: false },
    );
    expect(await choice).toMatchObject({ platform: { vmm: 'firecracker', accelerator: 'kvm' } });
    expect(asked).toEqual(['firecracker']);
  });

  test('and KVM, forced too, are refused where KVM cannot even be opened', async () => {
    const { choice } = choose(
      { setting: 'firecracker', forcedAccelerator: 'kvm' },
      { kvm: 'missing' },
    );
    await expect(choice).rejects.toMatchObject({
      code: 'host_setup',
      message: expect.stringContaining('there is no /dev/kvm'),
    });
  });

  test('needs QEMU to test KVM, and the remedy says how to do without', async () => {
    const { choice } = choose({ setting: 'firecracker' }, { qemu: false });
    await expect(choice).rejects.toMatchObject({
      code: 'host_setup',
      message: expect.stringContaining('QEMU is not installed'),
      remedy: expect.stringContaining('TORPOR_ACCELERATOR=kvm'),
    });
  });
});
