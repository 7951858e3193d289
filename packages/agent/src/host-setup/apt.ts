import { readFile } from 'node:fs/promises';
import { runCommand, writeFileAtomically } from '@torpor/linux';
import { findSystemProgram } from './checks.ts';

/** Our own apt source, with our name. */
const BACKPORTS_SOURCE = '/etc/apt/sources.list.d/torpor-backports.sources';

const APT_OPTIONS = [
  '-o',
  'Acquire::Retries=3',
  '-o',
  'Acquire::http::Timeout=30',
  // Another apt (unattended upgrades, a provisioning script) may hold the lock.
  '-o',
  'DPkg::Lock::Timeout=300',
  '-q',
];
const APT_TIMEOUT_MS = 30 * 60_000;

/** A Debian release whose backports have the newer packages that we need. */
const RELEASE_WITH_BACKPORTS = 'bookworm';

export interface SetupReport {
  /** Called with a line about each step. */
  readonly step: (line: string) => void;
  /** Called with each line that apt prints. */
  readonly output: (line: string) => void;
}

export async function hasApt(): Promise<boolean> {
  return (await findSystemProgram('apt-get')) !== undefined;
}

export async function updateLists(report: SetupReport): Promise<void> {
  report.step('apt-get update');
  await apt(['update'], report);
}

/** Installs packages from the distribution's own suites, or from a given one. */
export async function installPackages(
  packages: readonly string[],
  report: SetupReport,
  suite?: string,
): Promise<void> {
  const target = suite === undefined ? [] : ['-t', suite];
  report.step(`apt-get install ${[...target, ...packages].join(' ')}`);
  await apt(['install', '-y', '--no-install-recommends', ...target, ...packages], report);
}

/**
 * The name of the backports suite, after adding a source for it if apt has none;
 * undefined if this release needs or has none.
 */
export async function ensureBackports(report: SetupReport): Promise<string | undefined> {
  if ((await releaseCodename()) !== RELEASE_WITH_BACKPORTS) return undefined;
  const suite = `${RELEASE_WITH_BACKPORTS}-backports`;
  const archives = await knownArchives();
  if (archives.some(({ release }) => release === suite)) return suite;

  const archive = archives.find(({ release }) => release === RELEASE_WITH_BACKPORTS);
  report.step(`adding the apt source ${BACKPORTS_SOURCE}`);
  await writeFileAtomically(
    BACKPORTS_SOURCE,
    [
      '# Written by Torpor: QEMU 10 for Debian 12.',
      'Types: deb',
      `URIs: ${archive?.uri ?? 'http://deb.debian.org/debian'}`,
      `Suites: ${suite}`,
      'Components: main',
      'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg',
      '',
    ].join('\n'),
    0o644,
  );
  await updateLists(report);
  return suite;
}

/** VERSION_CODENAME of os-release(5), or the empty string. */
async function releaseCodename(): Promise<string> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  return /^VERSION_CODENAME="?([a-z]+)"?$/m.exec(text)?.[1] ?? '';
}

/** The archives in apt's sources, with their mirrors. */
async function knownArchives(): Promise<{ uri: string; release: string }[]> {
  const output = await runCommand(
    'apt-get',
    ['indextargets', '--format', '$(REPO_URI) $(RELEASE)', 'Created-By: Packages'],
    { timeoutMs: 60_000 },
  );
  return output.split('\n').flatMap((line) => {
    const [uri, release] = line.split(' ');
    return uri === undefined || release === undefined ? [] : [{ uri, release }];
  });
}

async function apt(args: readonly string[], report: SetupReport): Promise<void> {
  await runCommand('apt-get', [...APT_OPTIONS, ...args], {
    timeoutMs: APT_TIMEOUT_MS,
    env: { ...definedEnvironment(), DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' },
    onLine: report.output,
  });
}

function definedEnvironment(): Record<string, string> {
  const entries = Object.entries(process.env);
  return Object.fromEntries(
    entries.filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}
