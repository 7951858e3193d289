import { readFile } from 'node:fs/promises';
import { findProgram, SYSTEM_DIRECTORIES } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { isElf, parseElf } from './elf/elf.ts';

interface RequiredTool {
  readonly command: string;
  /** The Debian package that contains it. */
  readonly package: string;
}

/** The programs that this package runs or copies into guests. */
const REQUIRED_TOOLS: readonly RequiredTool[] = [
  { command: 'apt-get', package: 'apt' },
  { command: 'dpkg-deb', package: 'dpkg' },
  { command: 'xz', package: 'xz-utils' },
  { command: 'depmod', package: 'kmod' },
  { command: 'busybox', package: 'busybox-static' },
  { command: 'tini', package: 'tini' },
  { command: 'mkfs.ext4', package: 'e2fsprogs' },
  { command: 'patchelf', package: 'patchelf' },
  { command: 'strip', package: 'binutils' },
  { command: 'mmdebstrap', package: 'mmdebstrap' },
  { command: 'unshare', package: 'util-linux' },
  { command: 'setpriv', package: 'util-linux' },
  { command: 'tar', package: 'tar' },
  { command: 'npm', package: 'npm' },
];

/** The path of one of {@link REQUIRED_TOOLS}. Throws `host_setup` that names its package. */
export async function requireTool(command: string): Promise<string> {
  const path = await findProgram(command, { after: SYSTEM_DIRECTORIES });
  if (path !== undefined) return path;
  const tool = REQUIRED_TOOLS.find((entry) => entry.command === command);
  throw new TorporError('host_setup', `The program ${command} is not installed.`, {
    remedy: `Install the Debian package ${tool?.package ?? command}.`,
  });
}

/**
 * The path of busybox, which guests run without any library. Throws `host_setup` if it is
 * dynamically linked.
 */
export async function findStaticBusybox(): Promise<string> {
  const path = await requireTool('busybox');
  if (await isStaticProgram(path)) return path;
  throw new TorporError('host_setup', 'busybox is not statically linked.', {
    remedy: 'Install the Debian package busybox-static.',
  });
}

/** Whether a file is an ELF program without an interpreter, which is to say that it needs no libraries. */
export async function isStaticProgram(path: string): Promise<boolean> {
  const file = await readFile(path);
  return isElf(file) && parseElf(file).interpreter === undefined;
}
