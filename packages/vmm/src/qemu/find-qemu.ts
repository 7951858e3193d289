import { CommandError, findProgram, runCommand } from '@torpor/linux';
import { TorporError, withFullStop } from '@torpor/protocol';
import { HUNG_AFTER_MS } from '../hung-timeout.ts';

/** `microvm` needs QEMU 10: the one of 7.2 hangs now and then under pure emulation. */
export type QemuMachineType = 'microvm' | 'q35';

/** A usable QEMU. */
export interface QemuInstallation {
  readonly path: string;
  /** As QEMU prints it, e.g. `10.0.2`. */
  readonly version: string;
  readonly machineType: QemuMachineType;
}

const PROGRAM = 'qemu-system-x86_64';
const REMEDY = `Install ${PROGRAM} 10 or newer (Debian 12: \`apt-get install -t bookworm-backports qemu-system-x86\`), or set TORPOR_QEMU to its path.`;
const OLDEST = { major: 7, minor: 2 };

/**
 * Finds QEMU: at `path` if it is given, else on the PATH. Throws `host_setup` if there is none,
 * or one that is too old.
 */
export async function findQemu(path?: string): Promise<QemuInstallation> {
  const program = path ?? (await findProgram(PROGRAM));
  if (program === undefined) {
    throw new TorporError('host_setup', `${PROGRAM} is not installed.`, { remedy: REMEDY });
  }
  const version = await readVersion(program);
  const { major, minor } = parseVersion(version);
  if (major < OLDEST.major || (major === OLDEST.major && minor < OLDEST.minor)) {
    throw new TorporError('host_setup', `${program} is QEMU ${version}, which is too old.`, {
      remedy: REMEDY,
    });
  }
  return { path: program, version, machineType: machineTypeOf(version) };
}

/** The machine type for a version of QEMU. */
export function machineTypeOf(version: string): QemuMachineType {
  return parseVersion(version).major >= 10 ? 'microvm' : 'q35';
}

export function parseVersion(version: string): { major: number; minor: number } {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return { major, minor };
}

/** Whether an installation is at least of this version. */
export function isAtLeast(version: string, major: number, minor: number): boolean {
  const own = parseVersion(version);
  return own.major > major || (own.major === major && own.minor >= minor);
}

async function readVersion(program: string): Promise<string> {
  let output: string;
  try {
    output = await runCommand(program, ['--version'], { timeoutMs: HUNG_AFTER_MS });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new TorporError('host_setup', `QEMU cannot be run: ${withFullStop(error.message)}`, {
      remedy: REMEDY,
      cause: error,
    });
  }
  const version = /QEMU emulator version (\d+\.\d+\.\d+)/.exec(output)?.[1];
  if (version === undefined) {
    throw new TorporError('host_setup', `${program} is not QEMU: it does not report its version.`, {
      remedy: REMEDY,
    });
  }
  return version;
}
