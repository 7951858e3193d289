import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KERNEL_RECIPE } from '@torpor/images/testing';
import { kvmObstacle } from '@torpor/vmm';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { HostSettings } from '../config.ts';
import type { Fact, Requirement } from './requirement.ts';
import { REQUIREMENTS, requirementsFor } from './requirements.ts';
import { vmmFacts } from './vmm.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-doctor-'));
});
afterEach(() => rm(directory, { recursive: true }));

/** A program that only prints its version. */
async function program(name: string, message: string): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, `#!/bin/sh\necho '${message}'\n`);
  await chmod(path, 0o755);
  return path;
}

function withDirectory(settings: Partial<HostSettings>): HostSettings {
  return { dataDir: directory, cacheDir: directory, ...settings };
}

async function factsWith(settings: Partial<HostSettings>): Promise<Record<string, Fact>> {
  const facts = await vmmFacts(withDirectory(settings));
  return Object.fromEntries(facts.map((fact) => [fact.id, fact]));
}

describe('doctor', () => {
  test('finds Firecracker and its jailer', async () => {
    const firecracker = await program('firecracker', 'Firecracker v1.16.1');
    const jailer = await program('jailer', 'Jailer v1.16.1');
    const facts = await factsWith({ programs: { firecracker }, forcedAccelerator: 'tcg' });
    expect(facts.firecracker?.result).toEqual({
      state: 'found',
      detail: `${firecracker} 1.16.1, ${jailer}`,
    });
  });

  test('reports what is wrong with a Firecracker, which is not an error', async () => {
    const firecracker = await program('firecracker', 'Firecracker v1.2.0');
    const facts = await factsWith({ programs: { firecracker }, forcedAccelerator: 'tcg' });
    expect(facts.firecracker).toMatchObject({
      result: { state: 'degraded', detail: expect.stringContaining('too old') },
      remedy: expect.stringContaining('TORPOR_FIRECRACKER'),
    });
  });

  test('reports which VMM is chosen and why', async () => {
    const qemu = await program('qemu', 'QEMU emulator version 10.0.2');
    const { accelerator, vmm } = await factsWith({
      vmm: 'qemu',
      programs: { qemu },
      forcedAccelerator: 'tcg',
    });
    expect(vmm?.result).toEqual({
      state: 'found',
      detail: 'qemu 10.0.2: Forced by the setting vmm = qemu.',
    });
    expect(accelerator?.result).toEqual({
      state: 'found',
      detail: 'tcg: Forced by the setting accelerator = tcg.',
    });
  });

  test('reports why the forced VMM is not available, and what to do', async () => {
    const { vmm } = await factsWith({
      vmm: 'firecracker',
      programs: { firecracker: '/nonexistent/firecracker' },
      forcedAccelerator: 'tcg',
    });
    expect(vmm).toMatchObject({
      result: { state: 'missing', detail: expect.stringContaining('/nonexistent/firecracker') },
      remedy: expect.stringContaining('TORPOR_FIRECRACKER'),
    });
  });
});

/** If KVM cannot be tried, nothing is probed. */
const mayHaveKvm = (await kvmObstacle()) === undefined;

describe.runIf(mayHaveKvm)("doctor's result for KVM", () => {
  /** A cache with a kernel, as `ensureGuestArtifacts` leaves it, which is never booted. */
  async function cacheKernel(): Promise<void> {
    const path = join(directory, 'kernels', '0123456789abcdef01234567');
    await mkdir(path, { recursive: true });
    const names = { packageName: 'linux', packageVersion: '6.12', release: '6.12' };
    const manifest = { recipe: KERNEL_RECIPE, ...names, pvhEntry: true, modules: [] };
    await writeFile(join(path, 'manifest.json'), JSON.stringify(manifest));
    await writeFile(join(path, 'vmlinux'), 'not a kernel');
  }

  test('is probed once, and again with --probe', async () => {
    await cacheKernel();
    // It prints its version and does nothing else, like one that KVM refuses.
    const qemu = await program('qemu', 'QEMU emulator version 10.0.2');
    const settings = withDirectory({ programs: { qemu }, vmm: 'qemu' });
    let probes = 0;
    const onProbe = () => {
      probes += 1;
    };
    const look = async (probe: boolean) => {
      const facts = await vmmFacts(settings, { probe, onProbe });
      return facts.find(({ id }) => id === 'accelerator')?.result;
    };
    const first = await look(false);
    expect(first).toEqual({
      state: 'degraded',
      detail: expect.stringMatching(
        /^tcg: KVM can be opened, but no machine starts under it: .*--probe/,
      ),
    });
    expect(await look(false)).toEqual(first);
    expect(probes).toBe(1);
    await look(true);
    expect(probes).toBe(2);
  });
});

describe('the requirements of a host', () => {
  const idsOf = (requirements: readonly Requirement[]) => requirements.map(({ id }) => id);
  const ids = (settings: Partial<HostSettings>) => idsOf(requirementsFor(settings));

  test('are all of the table unless Firecracker is forced', () => {
    const all = idsOf(REQUIREMENTS);
    expect(ids({})).toEqual(all);
    expect(ids({ vmm: 'auto', forcedAccelerator: 'kvm' })).toEqual(all);
  });

  test('are fewer for Firecracker, and without QEMU if KVM is forced too', () => {
    const firecracker = ids({ vmm: 'firecracker' });
    expect(firecracker).toContain('qemu');
    expect(firecracker).not.toContain('gcc');
    const both = ids({ vmm: 'firecracker', forcedAccelerator: 'kvm' });
    expect(both).not.toContain('qemu');
    expect(both).toContain('nftables');
  });

  test('include the QEMU of the setting', async () => {
    const path = await program('qemu', 'QEMU emulator version 10.0.2');
    const requirements = requirementsFor({ programs: { qemu: path } });
    const qemu = requirements.find(({ id }) => id === 'qemu');
    expect(await qemu?.check()).toEqual({ state: 'found', detail: `${path} 10.0.2` });
  });
});
