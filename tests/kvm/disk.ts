import { truncate, writeFile } from 'node:fs/promises';
import { toolEnvironment } from '@torpor/images/testing';
import { runCommand } from '@torpor/linux';

/** Creates an ext4 image from a tree, with free space, as a sparse file. */
export async function makeDisk(
  path: string,
  tree: string,
  sizeMiB: number,
  label: string,
): Promise<void> {
  await writeFile(path, '', { mode: 0o600 });
  await truncate(path, sizeMiB * 1024 * 1024);
  const options = 'lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,nodiscard';
  await runCommand('mkfs.ext4', ['-q', '-F', '-L', label, '-E', options, '-d', tree, path], {
    env: toolEnvironment(),
  });
}
