import type { HostSettings } from '../config.ts';
import { every, files, programs, qemu, staticBusybox, superUser } from './checks.ts';
import { kernelFeatures, kmod } from './kernel-features.ts';
import { type Requirement, RUN_AS_ROOT } from './requirement.ts';

/**
 * The requirements with these settings. If Firecracker is forced, the host does not need what only
 * QEMU needs, nor QEMU itself if KVM is forced too; if emulation is forced, it does not need KVM.
 */
export function requirementsFor({
  forcedAccelerator,
  vmm,
  programs: { qemu: qemuPath } = {},
}: Pick<HostSettings, 'forcedAccelerator' | 'vmm' | 'programs'>): readonly Requirement[] {
  const unneeded = new Set<string>();
  if (forcedAccelerator === 'tcg') unneeded.add('kvm');
  if (vmm === 'firecracker') {
    unneeded.add('gcc');
    if (forcedAccelerator === 'kvm') unneeded.add('qemu');
  }
  return REQUIREMENTS.filter(({ id }) => !unneeded.has(id)).map((requirement) =>
    requirement.id === 'qemu' ? { ...requirement, check: () => qemu(qemuPath) } : requirement,
  );
}

const KERNEL_FEATURES = kernelFeatures();

/**
 * All requirements of a host beyond the npm packages. Set-up installs from this
 * table and doctor prints it.
 */
export const REQUIREMENTS: readonly Requirement[] = [
  {
    id: 'root',
    purpose: 'network namespaces, tap devices, nftables',
    check: superUser,
    packages: [],
    remedy: RUN_AS_ROOT,
  },
  {
    id: 'qemu',
    purpose: 'the virtual machines, and to find out whether KVM works',
    check: () => qemu(),
    packages: ['qemu-system-x86'],
    remedy: 'Install QEMU 10 or newer for x86.',
  },
  kmod(KERNEL_FEATURES),
  ...KERNEL_FEATURES,
  {
    id: 'iproute2',
    purpose: 'network namespaces and tap devices',
    check: programs('ip'),
    packages: ['iproute2'],
    remedy: 'Install the program ip.',
  },
  {
    id: 'nftables',
    purpose: 'the firewall between sandboxes, host and internet',
    check: programs('nft'),
    packages: ['nftables'],
    remedy: 'Install the program nft.',
  },
  {
    id: 'mmdebstrap',
    purpose: 'building the base image',
    check: every(programs('mmdebstrap'), files('/usr/share/keyrings/debian-archive-keyring.gpg')),
    packages: ['mmdebstrap', 'debian-archive-keyring'],
    remedy: 'Install mmdebstrap and the keys of the Debian archive.',
  },
  {
    id: 'busybox',
    purpose: "the guest's initramfs",
    check: staticBusybox,
    packages: ['busybox-static'],
    remedy: 'Install a busybox that is statically linked.',
  },
  {
    id: 'cpio',
    purpose: "the guest's initramfs",
    check: programs('cpio'),
    packages: ['cpio'],
    remedy: 'Install the program cpio.',
  },
  {
    id: 'zstd',
    purpose: 'packing kernel, initramfs and images',
    check: programs('zstd'),
    packages: ['zstd'],
    remedy: 'Install the program zstd.',
  },
  {
    id: 'xz',
    purpose: 'unpacking kernel modules',
    check: programs('xz'),
    packages: ['xz-utils'],
    remedy: 'Install the program xz.',
  },
  {
    id: 'depmod',
    purpose: 'the index of the kernel modules for guests',
    check: programs('depmod'),
    packages: ['kmod'],
    remedy: 'Install the program depmod.',
  },
  {
    id: 'tini',
    purpose: 'process 1 of a guest',
    check: programs('tini'),
    packages: ['tini'],
    remedy: 'Install the program tini.',
  },
  {
    id: 'patchelf',
    purpose: 'an agent drive that works on any image',
    check: programs('patchelf'),
    packages: ['patchelf'],
    remedy: 'Install the program patchelf.',
  },
  {
    id: 'e2fsprogs',
    purpose: 'the file systems of images and disks',
    check: programs('mkfs.ext4', 'debugfs'),
    packages: ['e2fsprogs'],
    remedy: 'Install the programs mkfs.ext4 and debugfs.',
  },
  {
    id: 'util-linux',
    purpose: 'VMM processes in their own namespaces and under their own user',
    check: programs('unshare', 'nsenter', 'setpriv', 'mount'),
    packages: ['util-linux', 'mount'],
    remedy: 'Install the programs of util-linux.',
  },
  {
    id: 'binutils',
    purpose: 'a small agent drive',
    check: programs('strip'),
    packages: ['binutils'],
    remedy: 'Install the program strip.',
  },
  {
    id: 'passwd',
    purpose: 'the account of the database',
    check: programs('useradd'),
    packages: ['passwd'],
    remedy: 'Install the program useradd.',
  },
  {
    id: 'dpkg',
    purpose: "unpacking the guest's kernel",
    check: programs('apt-get', 'dpkg-deb'),
    packages: [],
    remedy: 'Use a Debian or Ubuntu machine: the guest kernel comes from a Debian package.',
  },
  {
    id: 'tar',
    purpose: 'images and directories',
    check: programs('tar'),
    packages: ['tar'],
    remedy: 'Install the program tar.',
  },
  {
    id: 'gcc',
    purpose: 'the memory shim of QEMU',
    check: every(
      programs('gcc'),
      files('/usr/include/stdlib.h', '/usr/include/linux/userfaultfd.h'),
    ),
    packages: ['gcc', 'libc6-dev', 'linux-libc-dev'],
    remedy: 'Install a C compiler and the headers of libc and the kernel.',
  },
  {
    id: 'certificates',
    purpose: 'downloads from the Debian archive',
    check: files('/etc/ssl/certs/ca-certificates.crt'),
    packages: ['ca-certificates'],
    remedy: 'Install the package ca-certificates.',
  },
];
