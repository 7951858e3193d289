import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type CpioEntry, writeCpio } from './cpio.ts';

/** Groups with the same number in Debian and Alpine. */
const DISK_GROUP = 6;

/** Modes as in Debian's udev rules; all other devices are accessible to root only. */
const PERMISSIONS: Readonly<Record<string, { readonly mode: number; readonly gid?: number }>> = {
  fuse: { mode: 0o666 },
  'net/tun': { mode: 0o666 },
  'loop-control': { mode: 0o660, gid: DISK_GROUP },
};

/** Mount points, and entries that Docker and systemd create beside the kernel's devices. */
const ENTRIES: readonly CpioEntry[] = [
  { kind: 'directory', path: 'pts' },
  { kind: 'directory', path: 'shm', mode: 0o1777 },
  { kind: 'directory', path: 'mqueue', mode: 0o1777 },
  { kind: 'directory', path: 'hugepages' },
  { kind: 'symlink', path: 'fd', target: '/proc/self/fd' },
  { kind: 'symlink', path: 'stdin', target: '/proc/self/fd/0' },
  { kind: 'symlink', path: 'stdout', target: '/proc/self/fd/1' },
  { kind: 'symlink', path: 'stderr', target: '/proc/self/fd/2' },
  { kind: 'symlink', path: 'core', target: '/proc/kcore' },
];

/** Built into the kernel, which creates it for root only. */
const FUSE = { path: 'fuse', major: 10, minor: 229 } as const;

/**
 * An archive to be unpacked over a fresh devtmpfs. It also has the devices of modules that are
 * not loaded: opening one makes the kernel load its module, as with `kmod static-nodes`.
 * @param moduleTree The directory of depmod's indexes.
 */
export async function deviceArchive(moduleTree: string): Promise<Buffer> {
  const devices = [
    FUSE,
    ...parseDevices(await readFile(join(moduleTree, 'modules.devname'), 'utf8')),
  ];
  const directories = new Set(
    devices.map(({ path }) => dirname(path)).filter((path) => path !== '.'),
  );
  return writeCpio([
    ...ENTRIES,
    ...[...directories].map((path): CpioEntry => ({ kind: 'directory', path })),
    ...devices.map(
      (device): CpioEntry => ({
        kind: 'character-device',
        ...device,
        ...(PERMISSIONS[device.path] ?? { mode: 0o600 }),
      }),
    ),
  ]);
}

/** The character devices in depmod's `modules.devname`: lines such as `tun net/tun c10:200`. */
export function parseDevices(text: string) {
  return [...text.matchAll(/^\S+ (\S+) c(\d+):(\d+)$/gm)].map(([, path = '', major, minor]) => ({
    path,
    major: Number(major),
    minor: Number(minor),
  }));
}
