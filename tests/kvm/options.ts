import { parseArgs } from 'node:util';

/** The options of the test under KVM. */
export interface KvmTestOptions {
  /** A Firecracker of this machine, which the emulated one must choose. Without it, it must choose QEMU. */
  readonly firecracker?: { readonly path: string; readonly jailerPath?: string };
  readonly memoryMiB: number;
  readonly timeoutMinutes: number;
  /** Keep the disk and the console log of the machine. */
  readonly keep: boolean;
}

export const USAGE = `Usage: npm run test:kvm -- [--memory MIB] [--timeout MINUTES] [--keep]

Runs Torpor's command line under KVM, inside an emulated Debian machine. With
TORPOR_FIRECRACKER, and TORPOR_JAILER if there is one, sandboxes run in that Firecracker,
else in QEMU. It takes from 15 minutes to an hour; see docs/testing-kvm.md.`;

const DEFAULT_MEMORY_MIB = 5120;
const LEAST_MEMORY_MIB = 3072;
const DEFAULT_TIMEOUT_MINUTES = 90;

/** Throws an `Error` with a message for the user. */
export function parseKvmTestOptions(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): KvmTestOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      memory: { type: 'string' },
      timeout: { type: 'string' },
      keep: { type: 'boolean' },
    },
  });
  const firecracker = nonEmpty(env.TORPOR_FIRECRACKER);
  const jailer = nonEmpty(env.TORPOR_JAILER);
  if (jailer !== undefined && firecracker === undefined) {
    throw new Error('TORPOR_JAILER is set, and TORPOR_FIRECRACKER is not.');
  }
  return {
    ...(firecracker === undefined
      ? {}
      : {
          firecracker: {
            path: firecracker,
            ...(jailer === undefined ? {} : { jailerPath: jailer }),
          },
        }),
    memoryMiB: integer('--memory', values.memory, DEFAULT_MEMORY_MIB, LEAST_MEMORY_MIB),
    timeoutMinutes: integer('--timeout', values.timeout, DEFAULT_TIMEOUT_MINUTES, 1),
    keep: values.keep === true,
  };
}

function integer(name: string, text: string | undefined, otherwise: number, least: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= least) return value;
  throw new Error(`${name} is ${JSON.stringify(text)}: give a whole number from ${least} on.`);
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === '' ? undefined : text;
}
