import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { type CommandOptions, KernelModules, runCommand } from '@torpor/linux';
import { sampleRules } from '../network/index.ts';
import { findSystemProgram } from './checks.ts';
import { type CheckResult, type Requirement, RUN_AS_ROOT } from './requirement.ts';

/*
 * The kernel features that a host must have. They are tested by use, since a kernel may have them
 * built in and a container sees no modules. A feature whose module exists as a file but is not
 * loaded is not tested: the test would load it, and a check must not change anything.
 */

/** The modules that the nftables rules of sampleRules() need; those of other kernels are not searched. */
const NFT_MODULES = [
  ...['nf_tables', 'nf_conntrack', 'nf_nat', 'nft_chain_nat', 'nft_nat', 'nft_masq', 'nft_ct'],
  ...['nft_fib', 'nft_fib_inet', 'nft_reject_inet', 'nft_limit'],
];

/** The modules of KVM by the processor's flag for virtualisation (proc_cpuinfo(5)). */
const KVM_MODULES: Readonly<Record<string, readonly string[]>> = {
  vmx: ['kvm', 'kvm_intel'],
  svm: ['kvm', 'kvm_amd'],
};

const PROBE_TIMEOUT_MS = 30_000;

export interface HostKernel {
  readonly modules: KernelModules;
  /** /proc/cpuinfo. */
  readonly cpuInfo: () => Promise<string>;
  /** Opens a device to read and write; throws the error of open(2). */
  readonly openDevice: (path: string) => Promise<void>;
}

export const HOST_KERNEL: HostKernel = {
  modules: new KernelModules(),
  cpuInfo: () => readFile('/proc/cpuinfo', 'utf8').catch(() => ''),
  openDevice: async (path) => {
    const file = await open(path, constants.O_RDWR);
    await file.close();
  },
};

interface Feature extends Pick<Requirement, 'id' | 'purpose' | 'remedy'> {
  readonly modules: () => Promise<readonly string[]>;
  readonly use: () => Promise<CheckResult>;
}

/** The features of the kernel that every host must have, and KVM, which it may have. */
export function kernelFeatures(kernel: HostKernel = HOST_KERNEL): Requirement[] {
  const features = [tun(kernel), veth(), nftables(), kvm(kernel)];
  return features.map((feature) => requirementOf(feature, kernel));
}

/** Loading modules needs modprobe(8); a host without modules to load does not need it. */
export function kmod(
  features: readonly Requirement[],
  find: typeof findSystemProgram = findSystemProgram,
): Requirement {
  return {
    id: 'kmod',
    purpose: 'loading kernel modules',
    check: async () => {
      const program = await find('modprobe');
      if (program !== undefined) return { state: 'found', detail: program };
      const unloaded = await Promise.all(
        features.map((feature) => feature.unloadedModules?.() ?? []),
      );
      return unloaded.flat().length === 0
        ? { state: 'absent', detail: 'no program modprobe, and no module to load' }
        : { state: 'missing', detail: 'no program modprobe' };
    },
    packages: ['kmod'],
    remedy: 'Install the program modprobe.',
  };
}

function requirementOf({ modules, use, ...feature }: Feature, kernel: HostKernel): Requirement {
  const unloadedModules = async () => kernel.modules.unloaded(await modules());
  return {
    ...feature,
    packages: [],
    unloadedModules,
    check: async () => {
      const names = await unloadedModules();
      if (names.length === 0) return use();
      const detail = `the kernel has not loaded ${names.join(', ')}`;
      return { state: 'degraded', detail };
    },
  };
}

function tun({ openDevice }: HostKernel): Feature {
  return {
    id: 'tun',
    purpose: 'the network device of a sandbox',
    modules: async () => ['tun'],
    use: async () => {
      const failure = await openDevice('/dev/net/tun').then(() => undefined, failureOf);
      return failure === undefined
        ? { state: 'found', detail: '/dev/net/tun' }
        : { state: 'missing', ...failure };
    },
    remedy:
      'Load the kernel module with `torpor setup` or `modprobe tun`; in a container, pass the device /dev/net/tun through.',
  };
}

function veth(): Feature {
  return {
    id: 'veth',
    purpose: 'the link between host and sandbox',
    modules: async () => ['veth'],
    use: () =>
      inOwnNamespace('a veth pair can be created', 'ip', [
        ...['link', 'add', 'name', 'torpor0', 'type', 'veth', 'peer', 'name', 'torpor1'],
      ]),
    remedy:
      'Load the kernel module with `torpor setup` or `modprobe veth`; in a container, on its host.',
  };
}

function nftables(): Feature {
  return {
    id: 'nf_tables',
    purpose: 'the firewall between sandboxes, host and internet',
    modules: async () => NFT_MODULES,
    use: () =>
      inOwnNamespace('the rules of the firewall can be applied', 'nft', ['-f', '-'], {
        input: sampleRules(),
      }),
    remedy: `Load the kernel modules with \`torpor setup\` or \`modprobe -a ${NFT_MODULES.join(' ')}\`; in a container, on its host.`,
  };
}

function kvm({ cpuInfo, openDevice }: HostKernel): Feature {
  return {
    id: 'kvm',
    purpose: 'virtual machines at the speed of the processor',
    modules: async () => KVM_MODULES[(await virtualisation(cpuInfo)) ?? ''] ?? [],
    use: async () => {
      const failure = await openDevice('/dev/kvm').then(() => undefined, failureOf);
      if (failure === undefined) return { state: 'found', detail: '/dev/kvm' };
      const flag = await virtualisation(cpuInfo);
      return flag === undefined
        ? { state: 'absent', detail: 'the processor has no vmx and no svm; sandboxes are emulated' }
        : {
            ...failure,
            state: 'degraded',
            detail: `the processor has ${flag}, but ${failure.detail}`,
          };
    },
    remedy:
      'Load the kernel module with `torpor setup` or `modprobe kvm_intel` (kvm_amd); enable virtualisation in the firmware; in a container, pass the device /dev/kvm through.',
  };
}

/** Why a device cannot be opened. To another user than root it exists, and no module is lacking. */
function failureOf(error: unknown): Pick<CheckResult, 'detail' | 'remedy'> {
  const isDenied = error instanceof Error && 'code' in error && error.code === 'EACCES';
  return { detail: messageOf(error), ...(isDenied ? { remedy: RUN_AS_ROOT } : {}) };
}

async function virtualisation(cpuInfo: HostKernel['cpuInfo']): Promise<string | undefined> {
  return /^flags\s*:.*\b(vmx|svm)\b/m.exec(await cpuInfo())?.[1];
}

/** Runs a command in a temporary network namespace. */
async function inOwnNamespace(
  what: string,
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CheckResult> {
  if (process.getuid?.() !== 0) return { state: 'degraded', detail: 'not tried: it needs root' };
  const [unshare, path] = [await findSystemProgram('unshare'), await findSystemProgram(program)];
  if (unshare === undefined || path === undefined) {
    const lacking = path === undefined ? program : 'unshare';
    return { state: 'degraded', detail: `not tried: no program ${lacking}` };
  }
  const bounded = { timeoutMs: PROBE_TIMEOUT_MS, ...options };
  const error = await runCommand(unshare, ['--net', '--', path, ...args], bounded).then(
    () => undefined,
    messageOf,
  );
  return error === undefined
    ? { state: 'found', detail: what }
    : { state: 'missing', detail: error };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
