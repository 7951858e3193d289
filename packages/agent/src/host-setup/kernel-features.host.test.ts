import { access, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KernelModules } from '@torpor/linux';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { collectFacts } from './facts.ts';
import { type HostKernel, kernelFeatures, kmod } from './kernel-features.ts';
import { checkRequirements, remedyOf } from './requirement.ts';
import { setUpHost } from './setup.ts';

const RELEASE = '6.1.0-41-amd64';
const isRoot = process.getuid?.() === 0;

/** The relevant part of Debian 12's modules.dep. */
const DEBIAN_MODULES = [
  ...['drivers/net/tun', 'drivers/net/veth', 'net/netfilter/nf_conntrack', 'net/netfilter/nf_nat'],
  ...['nf_tables', 'nft_chain_nat', 'nft_nat', 'nft_masq', 'nft_ct', 'nft_fib', 'nft_fib_inet'],
  ...['nft_reject_inet', 'nft_limit', 'arch/x86/kvm/kvm', 'arch/x86/kvm/kvm-intel'],
  ...['arch/x86/kvm/kvm-amd', 'drivers/net/dummy'],
];

let root: string;
let host: HostKernel;
let flags: string;
const file = () => join(root, 'etc/modules-load.d/torpor.conf');

/** Installs a modprobe that "loads" a module into /sys/module. */
async function installModprobe(script = 'mkdir -p "$root/sys/module/$2"'): Promise<void> {
  const text = `#!/bin/sh\nroot=${root}\n${script}\n`;
  await writeFile(join(root, 'modprobe'), text, { mode: 0o755 });
}

/** A freshly booted Debian: modules as files, none of them loaded. */
async function installModules(): Promise<void> {
  const directory = join(root, 'lib/modules', RELEASE);
  await mkdir(directory, { recursive: true });
  const lines = DEBIAN_MODULES.map((path) => `kernel/${path}.ko:\n`);
  await writeFile(join(directory, 'modules.dep'), lines.join(''));
  await installModprobe();
}

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'torpor-kernel-'));
  flags = 'fpu vme msr';
  const devices: Record<string, string> = { '/dev/net/tun': 'tun', '/dev/kvm': 'kvm_intel' };
  host = {
    modules: new KernelModules({ root, release: RELEASE, modprobe: join(root, 'modprobe') }),
    cpuInfo: async () => `processor\t: 0\nflags\t\t: ${flags}\n`,
    openDevice: async (path) => {
      await access(join(root, 'sys/module', devices[path] ?? '')).catch(() => {
        throw new Error(`ENOENT: no such file or directory, open '${path}'`);
      });
    },
  };
});
afterEach(() => rm(root, { recursive: true }));

async function checked(): Promise<Record<string, string>> {
  const results = await checkRequirements(kernelFeatures(host));
  return Object.fromEntries(
    results.map(({ requirement, result }) => [
      requirement.id,
      `${result.state}: ${result.detail.split('\n')[0]}`,
    ]),
  );
}

function setUp(steps: string[] = []) {
  const report = { step: (line: string) => steps.push(line), output: () => undefined };
  const requirements = kernelFeatures(host);
  return setUpHost({ report, requirements, modules: host.modules, modulesFile: file() });
}

test('a device that this user may not open needs root, and no module', async () => {
  flags = 'fpu vmx msr';
  const openDevice = async (path: string) => {
    const text = `EACCES: permission denied, open '${path}'`;
    throw Object.assign(new Error(text), { code: 'EACCES' });
  };
  const results = await checkRequirements(kernelFeatures({ ...host, openDevice }));
  const remedies = results
    .filter(({ requirement }) => ['tun', 'kvm'].includes(requirement.id))
    .map(remedyOf);
  expect(remedies).toEqual(Array(2).fill('Run the command as root, for example with sudo.'));
});

describe('a freshly booted Debian', () => {
  beforeEach(async () => {
    await installModules();
    flags = 'fpu vmx msr';
  });

  test('is reported by doctor with the modules to load, and the check loads none', async () => {
    expect(await checked()).toEqual({
      tun: 'degraded: the kernel has not loaded tun',
      veth: 'degraded: the kernel has not loaded veth',
      nf_tables: `degraded: the kernel has not loaded nf_tables, nf_conntrack, nf_nat, nft_chain_nat, nft_nat, nft_masq, nft_ct, nft_fib, nft_fib_inet, nft_reject_inet, nft_limit`,
      kvm: 'degraded: the kernel has not loaded kvm, kvm_intel',
    });
    await expect(access(join(root, 'sys'))).rejects.toThrow();
    if (isRoot) {
      const facts = await collectFacts(root, host.modules);
      expect(facts.find(({ id }) => id === 'forwarding')?.result).toEqual({
        state: 'found',
        detail: 'no other firewall: the kernel has not loaded nf_tables',
      });
    }
    for (const { remedy } of kernelFeatures(host)) expect(remedy).toContain('`torpor setup`');
  });

  test.runIf(isRoot)(
    'is set up: modules are loaded, now and at every boot, and reported',
    async () => {
      const steps: string[] = [];
      const results = await setUp(steps);
      expect(results.map(({ result }) => result.state)).toEqual(Array(4).fill('found'));
      const names = `tun veth nf_tables nf_conntrack nf_nat nft_chain_nat nft_nat nft_masq nft_ct nft_fib nft_fib_inet nft_reject_inet nft_limit kvm kvm_intel`;
      expect(steps).toContain(`modprobe ${names}`);
      expect(steps.at(-1)).toMatch(/loaded at every boot from now on, by .*torpor\.conf$/);
      const lines = (await readFile(file(), 'utf8')).split('\n').filter((line) => line !== '');
      expect(lines[0]).toMatch(/^#/);
      expect(lines.slice(1)).toEqual(names.split(' '));
      // Again with nothing to do, and once with one module unloaded.
      const again: string[] = [];
      await setUp(again);
      expect(again).toEqual([]);
      await rm(join(root, 'sys/module/veth'), { recursive: true });
      await setUp(again);
      expect(again.at(-1)).toBe('modprobe veth');
      expect((await readFile(file(), 'utf8')).match(/^veth$/gm)).toHaveLength(1);
    },
  );

  test.runIf(isRoot)('with KVM disabled in the firmware is set up without it', async () => {
    const refusal = `modprobe: ERROR: could not insert 'kvm_intel': Operation not supported`;
    await installModprobe(
      `[ "$2" = kvm_intel ] && { echo "${refusal}" >&2; exit 1; }\nmkdir -p "$root/sys/module/$2"`,
    );
    const steps: string[] = [];
    const results = await setUp(steps);
    expect(results.map(({ result }) => result.state)).toEqual([
      ...['found', 'found', 'found', 'degraded'],
    ]);
    expect(steps.join('\n')).toContain(`kvm_intel could not be loaded: `);
    expect(steps.join('\n')).toContain(refusal);
    expect(await readFile(file(), 'utf8')).not.toContain('kvm_intel');
  });

  test('needs modprobe only while there is something to load', async () => {
    const requirement = kmod(kernelFeatures(host), async () => undefined);
    expect((await requirement.check()).state).toBe('missing');
    expect(requirement.packages).toEqual(['kmod']);
    await rm(join(root, 'lib'), { recursive: true });
    expect((await requirement.check()).state).toBe('absent');
    const present = kmod(kernelFeatures(host), async () => '/sbin/modprobe');
    expect(await present.check()).toEqual({ state: 'found', detail: '/sbin/modprobe' });
  });
});

describe('a host without module files, such as a container', () => {
  test.runIf(isRoot)('has the features that work, and nothing is loaded', async () => {
    await mkdir(join(root, 'sys/module/tun'), { recursive: true });
    expect(await checked()).toEqual({
      tun: 'found: /dev/net/tun',
      veth: 'found: a veth pair can be created',
      nf_tables: 'found: the rules of the firewall can be applied',
      kvm: 'absent: the processor has no vmx and no svm; sandboxes are emulated',
    });
    await setUp();
    await expect(access(file())).rejects.toThrow();
  });

  test('lacks a device that it cannot open', async () => {
    const { tun } = await checked();
    expect(tun).toBe("missing: ENOENT: no such file or directory, open '/dev/net/tun'");
  });

  test('is told if its processor could virtualise', async () => {
    flags = 'fpu svm';
    const { kvm } = await checked();
    expect(kvm).toMatch(/^degraded: the processor has svm, but ENOENT.*\/dev\/kvm/);
  });

  test.runIf(isRoot)('gets the message of the tool for what its kernel refuses', async () => {
    const { PATH } = process.env;
    process.env.PATH = `${root}:${PATH}`;
    const message = 'Error: Could not process rule: Operation not supported';
    try {
      const script = `#!/bin/sh\ncat >/dev/null\necho "${message}" >&2\nexit 1\n`;
      await writeFile(join(root, 'nft'), script, { mode: 0o755 });
      const [, , nftables] = await checkRequirements(kernelFeatures(host));
      expect(nftables?.result).toMatchObject({
        state: 'missing',
        detail: expect.stringMatching(/nft -f -: exit status 1: .*not supported$/s),
      });
    } finally {
      process.env.PATH = PATH;
    }
  });
});
