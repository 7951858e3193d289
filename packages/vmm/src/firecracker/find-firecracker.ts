import { realpath } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CommandError, findProgram, runCommand } from '@torpor/linux';
import { TorporError, withFullStop } from '@torpor/protocol';
import { HUNG_AFTER_MS } from '../hung-timeout.ts';
import { isVersionAtLeast } from './version.ts';

/** A usable Firecracker, with the jailer of the same version if there is one. */
export interface FirecrackerInstallation {
  /** Without symbolic links: the jailer names its directories after the file. */
  readonly path: string;
  /** As Firecracker prints it, e.g. `1.16.1`. */
  readonly version: string;
  readonly jailerPath?: string;
}

export interface FirecrackerLocations {
  readonly firecracker?: string | undefined;
  readonly jailer?: string | undefined;
}

/** Before it, Firecracker had no ACPI, without which our guest kernel finds no devices. */
const OLDEST = { major: 1, minor: 8 };
const REMEDY =
  'Put a release of Firecracker 1.8 or newer, and its jailer, on the PATH, or set TORPOR_FIRECRACKER and TORPOR_JAILER to their paths.';

/**
 * Finds Firecracker: at the given path, else on the PATH. Its jailer: likewise, else in the
 * directory of Firecracker, else on the PATH, else none. Throws `host_setup` if there is no
 * Firecracker, one that is too old, or a jailer of another version.
 */
export async function findFirecracker({
  firecracker,
  jailer,
}: FirecrackerLocations = {}): Promise<FirecrackerInstallation> {
  const found = firecracker ?? (await findProgram('firecracker'));
  if (found === undefined) throw setupError('Firecracker is not installed.');
  const path = await realpath(found).catch((error: Error) => {
    throw setupError(`Firecracker does not run: ${withFullStop(error.message)}`);
  });
  const version = await readVersion(path, 'Firecracker');
  if (!isVersionAtLeast(version, OLDEST.major, OLDEST.minor)) {
    throw setupError(`${path} is Firecracker ${version}, which is too old.`);
  }
  const jailerPath = jailer ?? (await findProgram('jailer', { before: [dirname(path)] }));
  if (jailerPath === undefined) return { path, version };
  const jailerVersion = await readVersion(jailerPath, 'Jailer');
  if (jailerVersion !== version) {
    throw setupError(
      `${jailerPath} is version ${jailerVersion}, but Firecracker is version ${version}.`,
    );
  }
  return { path, version, jailerPath };
}

/** The first line of `--version` is `Firecracker v1.16.1` or `Jailer v1.16.1`. */
async function readVersion(program: string, name: 'Firecracker' | 'Jailer'): Promise<string> {
  let output: string;
  try {
    output = await runCommand(program, ['--version'], { timeoutMs: HUNG_AFTER_MS });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw setupError(`${name} does not run: ${withFullStop(error.message)}`, error);
  }
  const version = new RegExp(`^${name} v?(\\d+\\.\\d+\\.\\d+\\S*)`, 'i').exec(output)?.[1];
  if (version === undefined) {
    throw setupError(`${program} is not ${name}: it does not report its version.`);
  }
  return version;
}

function setupError(what: string, cause?: unknown): TorporError {
  return new TorporError('host_setup', what, { remedy: REMEDY, cause });
}
