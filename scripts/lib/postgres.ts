import { access, mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Requirement } from '@torpor/agent/host-setup';

/** Where Debian's packages put the programs. */
const PROGRAMS = '/usr/lib/postgresql';
/** Debian's pg_createcluster(1) reads it. */
const NO_CLUSTER_FILE = '/etc/postgresql-common/createcluster.d/torpor-tests.conf';

/** The PostgreSQL of tests with several control planes, which run clusters of their own. */
export const POSTGRESQL: Requirement = {
  id: 'postgresql',
  purpose: 'tests with several control planes',
  check: async () =>
    (await hasPostgres())
      ? { state: 'found', detail: PROGRAMS }
      : { state: 'missing', detail: `no ${PROGRAMS}` },
  packages: ['postgresql'],
  remedy: 'Install PostgreSQL.',
};

/** Runs `install`, which may install PostgreSQL: the package then makes and starts no server. */
export async function withoutServer(install: () => Promise<unknown>): Promise<void> {
  if (await hasPostgres()) return void (await install());
  await mkdir(dirname(NO_CLUSTER_FILE), { recursive: true });
  await writeFile(NO_CLUSTER_FILE, 'create_main_cluster = off\n');
  try {
    await install();
  } finally {
    await rm(NO_CLUSTER_FILE, { force: true });
  }
}

async function hasPostgres(): Promise<boolean> {
  return access(PROGRAMS).then(
    () => true,
    () => false,
  );
}
