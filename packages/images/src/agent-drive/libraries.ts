import { access, readFile, realpath } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { parseElf } from '../elf/elf.ts';

/** Where Debian, and others with one architecture, keep shared libraries. */
const LIBRARY_DIRECTORIES = [
  '/lib/x86_64-linux-gnu',
  '/usr/lib/x86_64-linux-gnu',
  '/lib64',
  '/usr/lib64',
  '/lib',
  '/usr/lib',
];

/** File name of glibc's loader on x86-64. */
export const LOADER = 'ld-linux-x86-64.so.2';

/**
 * The shared libraries that programs and libraries need, directly or through
 * each other, and the dynamic loader: soname → path on this host. Throws
 * `host_setup` for one that this host lacks.
 */
export async function collectLibraries(programs: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const pending = [...programs, await findLibrary(LOADER)];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    if (basename(path) === LOADER) found.set(LOADER, path);
    for (const soname of parseElf(await readFile(path)).needed) {
      if (found.has(soname)) continue;
      const library = await findLibrary(soname);
      found.set(soname, library);
      pending.push(library);
    }
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

async function findLibrary(soname: string): Promise<string> {
  for (const directory of LIBRARY_DIRECTORIES) {
    const path = join(directory, soname);
    const exists = await access(path).then(
      () => true,
      () => false,
    );
    // On a multilib host a 32-bit library may come first, which parseElf would refuse.
    if (exists) return basename(path) === LOADER ? path : realpath(path);
  }
  throw new TorporError('host_setup', `The shared library ${soname} is not installed.`, {
    remedy: 'Install the Debian packages libc6, libstdc++6, libgcc-s1 and libatomic1.',
  });
}
