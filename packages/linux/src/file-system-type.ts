import { statfs } from 'node:fs/promises';

/**
 * Magic numbers (statfs(2), linux/magic.h) of file systems whose files can be changed by other
 * hosts, so that inotify misses those changes.
 */
const NETWORK_FILE_SYSTEMS = new Map<number, string>([
  [0x6969, 'NFS'],
  [0x517b, 'SMB'],
  [0xff534d42, 'CIFS'],
  [0xfe534d42, 'SMB2'],
  [0x65735546, 'FUSE'],
  [0x01021997, '9p'],
  [0x00c36400, 'Ceph'],
  [0x5346414f, 'AFS'],
  [0x0bd00bd0, 'Lustre'],
]);

/** Pseudo file systems: their directories are data structures of the kernel. */
const KERNEL_FILE_SYSTEMS = new Set<number>([
  0x9fa0, // proc
  0x62656572, // sysfs
  0x64626720, // debugfs
  0x74726163, // tracefs
  0x27e0eb, // cgroup
  0x63677270, // cgroup2
  0x1cd1, // devpts
]);

export type FileSystemType =
  | { readonly kind: 'local' }
  | { readonly kind: 'kernel' }
  | { readonly kind: 'network'; readonly name: string };

/**
 * What kind of file system holds this path: `network` for NFS, SMB, FUSE and the
 * like, `kernel` for proc, sysfs and the like. Throws the errors of statfs(2).
 */
export async function fileSystemType(path: string): Promise<FileSystemType> {
  const magic = (await statfs(path)).type >>> 0;
  const name = NETWORK_FILE_SYSTEMS.get(magic);
  if (name !== undefined) return { kind: 'network', name };
  return { kind: KERNEL_FILE_SYSTEMS.has(magic) ? 'kernel' : 'local' };
}
