import { checked, libc } from './libc.ts';

const mount = libc.func(
  'int mount(str source, str target, str type, unsigned long flags, str data)',
);
const umount2 = libc.func('int umount2(str target, int flags)');

const MS_NOSUID = 0x2;
const MS_NODEV = 0x4;
const MS_BIND = 0x1000;
const MNT_DETACH = 0x2;

/** Mounts an empty tmpfs for files of root's; mount(2), tmpfs(5). Throws SystemError. */
export function mountTmpfs(target: string): void {
  checked('mount', mount('tmpfs', target, 'tmpfs', MS_NOSUID | MS_NODEV, 'mode=0755'));
}

/**
 * Makes `source` appear in the place of `target`, which has to exist and be of the same
 * kind, directory or not; symbolic links are followed. mount(2). Throws SystemError.
 */
export function bindMount(source: string, target: string): void {
  checked('mount', mount(source, target, null, MS_BIND, null));
}

/**
 * Takes away the mount on top of `target`, also while it is in use; umount(2). Throws
 * SystemError: `EINVAL` if nothing is mounted there.
 */
export function unmount(target: string): void {
  checked('umount2', umount2(target, MNT_DETACH));
}
