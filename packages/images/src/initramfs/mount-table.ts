/**
 * Directories of a guest in which container engines keep layers. They are on the sandbox's own
 * ext4 instead of in the overlay, because an overlay cannot be the upper layer of another one.
 */
const CONTAINER_STORES = {
  docker: '/var/lib/docker',
  containerd: '/var/lib/containerd',
  podman: '/var/lib/containers',
} as const;

const STORES_ON_DISK = '/layers/upper/stores';

/** Directories that the disk of a new sandbox must have before {@link mountTable} can be mounted. */
export const STORE_DIRECTORIES: readonly string[] = Object.entries(CONTAINER_STORES).flatMap(
  ([name, path]) => [`${STORES_ON_DISK}/${name}`, `/layers/upper/root${path}`],
);

/** The kernel's own file systems, as Docker and systemd mount them. */
const KERNEL_FILE_SYSTEMS = [
  ['devpts', '/dev/pts', 'devpts', 'nosuid,noexec,gid=5,mode=620,ptmxmode=666'],
  ['tmpfs', '/dev/shm', 'tmpfs', 'nosuid,nodev,mode=1777'],
  ['mqueue', '/dev/mqueue', 'mqueue', 'nosuid,nodev,noexec'],
  ['hugetlbfs', '/dev/hugepages', 'hugetlbfs', 'nosuid,nodev'],
  ['cgroup2', '/sys/fs/cgroup', 'cgroup2', 'nosuid,nodev,noexec,nsdelegate,memory_recursiveprot'],
  ['bpf', '/sys/fs/bpf', 'bpf', 'nosuid,nodev,noexec,mode=700'],
  ['fusectl', '/sys/fs/fuse/connections', 'fusectl', 'nosuid,nodev,noexec'],
  ['debugfs', '/sys/kernel/debug', 'debugfs', 'nosuid,nodev,noexec'],
  ['tracefs', '/sys/kernel/tracing', 'tracefs', 'nosuid,nodev,noexec'],
  ['tmpfs', '/root/run', 'tmpfs', 'nosuid,nodev,mode=755,size=20%'],
] as const;

/**
 * The fstab(5) with which the initramfs mounts everything in one call, while the kernel's file
 * systems are still in its own root and the guest's root is /root. securityfs is left out: with
 * it, container engines would require AppArmor profiles that no image here has.
 */
export function mountTable(): string {
  const stores = Object.entries(CONTAINER_STORES).map(([name, path]) => [
    `${STORES_ON_DISK}/${name}`,
    `/root${path}`,
    'none',
    'bind',
  ]);
  return [...KERNEL_FILE_SYSTEMS, ...stores].map((entry) => `${entry.join(' ')} 0 0\n`).join('');
}
