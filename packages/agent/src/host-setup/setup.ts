import { CommandError, type KernelModules } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { ensureBackports, hasApt, installPackages, type SetupReport, updateLists } from './apt.ts';
import { HOST_KERNEL } from './kernel-features.ts';
import { loadModules, MODULES_FILE } from './module-loading.ts';
import {
  type CheckedRequirement,
  checkRequirements,
  type Requirement,
  remedyOf,
} from './requirement.ts';
import { REQUIREMENTS } from './requirements.ts';

export interface SetupOptions {
  readonly report: SetupReport;
  /** The default is the table of this package; tests pass their own. */
  readonly requirements?: readonly Requirement[];
  /** The source of kernel modules, and the file that loads them at boot; tests pass their own. */
  readonly modules?: KernelModules;
  readonly modulesFile?: string;
}

/** Throws `host_setup`, naming every requirement that is missing. Changes nothing. */
export async function assertHostReady(
  requirements: readonly Requirement[] = REQUIREMENTS,
): Promise<void> {
  const missing = (await checkRequirements(requirements)).filter(isMissing);
  if (missing.length > 0) throw missingError(missing);
}

/**
 * Installs packages and loads kernel modules that the host lacks. If nothing is missing, it
 * only checks, which takes well under a second. Throws `host_setup` if it cannot help.
 */
export async function setUpHost({
  report,
  requirements = REQUIREMENTS,
  modules = HOST_KERNEL.modules,
  modulesFile = MODULES_FILE,
}: SetupOptions): Promise<CheckedRequirement[]> {
  const before = await checkRequirements(requirements);
  const wanted = before.filter(({ result }) => ['missing', 'degraded'].includes(result.state));
  if (wanted.length === 0) return before;
  for (const { requirement, result } of wanted) {
    report.step(
      `${requirement.id} (for ${requirement.purpose}) is ${result.state}: ${result.detail}`,
    );
  }
  const installable = wanted.filter(({ requirement }) => requirement.packages.length > 0);
  if (installable.length > 0 && (await canInstall(wanted.filter(isMissing)))) {
    await install(installable, report);
  }
  if (process.getuid?.() === 0) {
    await loadModules({ requirements, modules, file: modulesFile, step: report.step });
  }
  return finish(await checkRequirements(requirements));
}

function finish(checked: CheckedRequirement[]): CheckedRequirement[] {
  const missing = checked.filter(isMissing);
  if (missing.length > 0) throw missingError(missing);
  return checked;
}

/** False if the existing programs suffice and nothing newer is available. Throws `host_setup` if they do not suffice. */
async function canInstall(missing: readonly CheckedRequirement[]): Promise<boolean> {
  if (process.getuid?.() !== 0) {
    throw new TorporError(
      'host_setup',
      `This machine lacks ${missing.map(({ requirement }) => requirement.id).join(', ')}, and only root may install packages and run virtual machines with their own networks.`,
      { remedy: 'Run `sudo npm start` (or `sudo npx torpor setup`).' },
    );
  }
  if (await hasApt()) return true;
  if (missing.length > 0) throw missingError(missing);
  return false;
}

async function install(wanted: readonly CheckedRequirement[], report: SetupReport): Promise<void> {
  const missing = wanted.filter(isMissing);
  try {
    await updateLists(report);
    const wantsQemu = wanted.some(({ requirement }) => requirement.id === 'qemu');
    const hasNewQemu = wantsQemu && (await installNewQemu(report));
    const packages = missing
      .filter(({ requirement }) => requirement.id !== 'qemu' || !hasNewQemu)
      .flatMap(({ requirement }) => requirement.packages);
    if (packages.length > 0) await installPackages([...new Set(packages)], report);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new TorporError('host_setup', `Packages could not be installed: ${error.message}`, {
      cause: error,
      remedy: 'Fix what apt reports, then run `torpor setup`.',
    });
  }
}

/** Installs QEMU of the backports if there are any; otherwise the release's own suffices. */
async function installNewQemu(report: SetupReport): Promise<boolean> {
  try {
    const suite = await ensureBackports(report);
    if (suite === undefined) return false;
    await installPackages(['qemu-system-x86'], report, suite);
    return true;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    report.step(`could not get a newer QEMU from the backports: ${error.message}`);
    return false;
  }
}

function isMissing({ result }: CheckedRequirement): boolean {
  return result.state === 'missing';
}

function missingError(missing: readonly CheckedRequirement[]): TorporError {
  const list = missing.map(({ requirement, result }) => `${requirement.id} (${result.detail})`);
  const remedies = missing.map(remedyOf);
  const packages = missing.flatMap(({ requirement }) => requirement.packages);
  const byPackage =
    packages.length === 0 ? [] : [`\`torpor setup\` installs it on Debian: ${packages.join(' ')}.`];
  return new TorporError('host_setup', `This machine lacks ${list.join(', ')}.`, {
    remedy: [...new Set(remedies), ...byPackage].join(' '),
  });
}
