import { createHash } from 'node:crypto';
import { access, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandError, runCommand } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';

const SOURCE = fileURLToPath(new URL('uffd-shim.c', import.meta.url));
const FLAGS = ['-O2', '-Wall', '-Wextra', '-shared', '-fPIC'];

/**
 * The library that lets a page server fill QEMU's memory, compiled into `cacheDir` if it does
 * not exist there. Throws `host_setup` where it cannot be compiled.
 */
export async function ensureUffdShim(cacheDir: string): Promise<string> {
  const key = createHash('sha256')
    .update(await readFile(SOURCE))
    .update(FLAGS.join(' '))
    .digest('hex')
    .slice(0, 16);
  const directory = join(cacheDir, 'vmm');
  const path = join(directory, `uffd-shim-${key}.so`);
  if (await exists(path)) return path;
  await mkdir(directory, { recursive: true });
  const staging = `${path}.${process.pid}`;
  try {
    await runCommand('cc', [...FLAGS, '-o', staging, SOURCE, '-ldl']);
    await rename(staging, path);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new TorporError('host_setup', `uffd-shim.c could not be compiled: ${error.message}`, {
      remedy: 'Install gcc and libc6-dev.',
      cause: error,
    });
  } finally {
    await rm(staging, { force: true });
  }
  return path;
}

/** Environment of a QEMU whose memory file a page server fills. */
export function shimEnvironment(
  shimPath: string,
  memoryFile: string,
  socketPath: string,
): Record<string, string> {
  return {
    LD_PRELOAD: shimPath,
    TORPOR_UFFD_MEMORY: memoryFile,
    TORPOR_UFFD_SOCKET: socketPath,
  };
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}
