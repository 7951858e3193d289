import { rm, truncate, writeFile } from 'node:fs/promises';
import { runCommand } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { toImageError } from '../cache/image-error.ts';
import { toolEnvironment } from './ext4.ts';

/** Below it mkfs has no room for the journal. */
const MIN_SIZE_MIB = 32;
/**
 * The largest that ext4 with 4 KiB blocks is supported for is 16 TiB; more than 1 TiB is taken
 * for a mistake.
 */
const MAX_SIZE_MIB = 1024 * 1024;
/**
 * The journal is a ring buffer, so all of it becomes part of a snapshot's disk layer: it is as
 * small as possible without slowing metadata-heavy work.
 */
const JOURNAL_MIB = 8;

/**
 * Makes the disk of a new sandbox: a sparse file with an empty ext4, the upper
 * layer of its root file system. It takes some 10 ms and allocates a few MB even
 * for 10 GB. Nothing is zeroed, now or by the guest in the background: a new
 * sparse file reads as zeros already (mkfs.ext4(8), `assume_storage_prezeroed`).
 * @param sizeMiB 32 to 1,048,576
 * @throws `invalid_request` for another size, `already_exists`, `disk_full`; then the file is removed
 */
export async function createUpperDisk(path: string, sizeMiB: number): Promise<void> {
  if (!Number.isSafeInteger(sizeMiB) || sizeMiB < MIN_SIZE_MIB || sizeMiB > MAX_SIZE_MIB) {
    throw new TorporError(
      'invalid_request',
      `A disk has ${MIN_SIZE_MIB} to ${MAX_SIZE_MIB} MiB, not ${sizeMiB}.`,
    );
  }
  await writeFile(path, '', { flag: 'wx', mode: 0o600 }).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') {
      throw new TorporError('already_exists', `The disk ${path} exists.`, { cause: error });
    }
    throw toImageError(error);
  });
  try {
    await truncate(path, sizeMiB * 1024 * 1024);
    await runCommand(
      'mkfs.ext4',
      [
        '-q',
        '-F',
        ...['-b', '4096', '-m', '0', '-J', `size=${JOURNAL_MIB}`],
        ...['-E', 'lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,nodiscard'],
        path,
      ],
      { env: toolEnvironment() },
    );
  } catch (error) {
    await rm(path, { force: true });
    throw toImageError(error);
  }
}
