import { closeSync, ftruncateSync, writeSync } from 'node:fs';
import { checked, libc } from './libc.ts';

const fsopen = libc.func('long syscall(long number, str type, unsigned int flags)');
const fsconfig = libc.func(
  'long syscall(long number, int fd, unsigned int command, str key, str value, int aux)',
);
const fsmount = libc.func(
  'long syscall(long number, int fd, unsigned int flags, unsigned int attributes)',
);
const openTree = libc.func('long syscall(long number, int fd, str path, unsigned int flags)');
const moveMount = libc.func(
  'long syscall(long number, int from, str fromPath, int to, str toPath, unsigned int flags)',
);
const openAt = libc.func('int openat(int directory, str path, int flags, unsigned int mode)');
const fileChmod = libc.func('int fchmod(int fd, unsigned int mode)');
const changeDirectory = libc.func('int fchdir(int fd)');
const open = libc.func('int open(str path, int flags)');
const umount2 = libc.func('int umount2(str target, int flags)');

const SYS = { openTree: 428, moveMount: 429, fsopen: 430, fsconfig: 431, fsmount: 432 };
const CLOEXEC = 0x1;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;
const MOUNT_ATTR_NOSUID_NODEV = 0x6;
const MOVE_MOUNT_F_EMPTY_PATH = 0x4;
const MOVE_MOUNT_T_SYMLINKS = 0x10;
const OPEN_TREE_CLONE_CLOEXEC = 0x80001;
const O_RDWR_CREAT_CLOEXEC = 0x80042;
const O_PATH_DIRECTORY_CLOEXEC = 0x290000;
const AT_FDCWD = -100;
const MNT_DETACH = 0x2;
const NAME = 'file';

/**
 * Mounts a file in memory, with this content, over the file `target`, and returns it open
 * for writing. Symbolic links are followed. Throws SystemError; then nothing is mounted.
 *
 * No path but `target` has to exist: the file's tmpfs is attached for a moment on top of the
 * root directory, where no lookup comes across it, because a file can be mounted from an
 * attached file system only (mount_namespaces(7), open_tree(2)). The working directory of the
 * process changes meanwhile.
 */
export function mountMemoryFile(content: string, target: string, mode: number): number {
  using descriptors = new DisposableStack();
  const opened = (fd: number): number => {
    descriptors.defer(() => closeSync(fd));
    return fd;
  };
  const tmpfs = opened(createTmpfs());
  attach(tmpfs, '/');
  descriptors.defer(() => detach(tmpfs));
  const file = checked('openat', openAt(tmpfs, NAME, O_RDWR_CREAT_CLOEXEC, mode));
  try {
    // The umask may have removed bits of the mode.
    checked('fchmod', fileChmod(file, mode));
    ftruncateSync(file, writeSync(file, content, 0));
    const tree = call('open_tree', openTree(SYS.openTree, tmpfs, NAME, OPEN_TREE_CLONE_CLOEXEC));
    attach(opened(tree), target);
    return file;
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

/** Detaches the mount on top of `target`, even while it is in use; umount(2). Throws SystemError. */
function unmount(target: string): void {
  checked('umount2', umount2(target, MNT_DETACH));
}

/** A file system that is attached nowhere yet. */
function createTmpfs(): number {
  const context = call('fsopen', fsopen(SYS.fsopen, 'tmpfs', CLOEXEC));
  try {
    const set = (command: number, key: string | null, value: string | null) =>
      call('fsconfig', fsconfig(SYS.fsconfig, context, command, key, value, 0));
    set(FSCONFIG_SET_STRING, 'mode', '0755');
    set(FSCONFIG_CMD_CREATE, null, null);
    return call('fsmount', fsmount(SYS.fsmount, context, CLOEXEC, MOUNT_ATTR_NOSUID_NODEV));
  } finally {
    closeSync(context);
  }
}

function attach(mount: number, target: string): void {
  const flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
  call('move_mount', moveMount(SYS.moveMount, mount, '', AT_FDCWD, target, flags));
}

/** By its descriptor: its path names what is mounted below it. */
function detach(mount: number): void {
  const before = checked('open', open('.', O_PATH_DIRECTORY_CLOEXEC));
  try {
    checked('fchdir', changeDirectory(mount));
    unmount('.');
  } finally {
    changeDirectory(before);
    closeSync(before);
  }
}

function call(name: string, result: number | bigint): number {
  return checked(name, Number(result));
}
