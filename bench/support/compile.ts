import { join } from 'node:path';
import { runCommand } from '@torpor/linux';

/** Compiles a C program of one file into a directory; returns its path. Needs gcc and libc6-dev. */
export async function compile(source: string, directory: string, name: string): Promise<string> {
  const program = join(directory, name);
  await runCommand('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', program, source]);
  return program;
}
