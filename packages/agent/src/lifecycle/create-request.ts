import { isId, SANDBOX_DEFAULTS, TorporError } from '@torpor/protocol';
import type { SandboxLimits } from '../host-context.ts';
import { DEFAULT_TEMPLATE } from '../machine/bring-up.ts';
import type { SandboxSpec } from '../registry/record.ts';

export interface CreateRequest {
  readonly id: string;
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** {@link DEFAULT_DISK_MIB} if omitted. */
  readonly diskSizeMiB?: number | undefined;
  readonly timeoutSec: number;
  readonly teamId: string;
  /** Name of the image, {@link DEFAULT_TEMPLATE} if omitted; or id of the snapshot. */
  readonly templateId?: string | undefined;
  /** The name by which the template was chosen, if that is not its id. */
  readonly templateName?: string | undefined;
  /** The image's default if omitted. */
  readonly defaultUser?: string | undefined;
  readonly defaultEnv: Readonly<Record<string, string>>;
  readonly envs: Readonly<Record<string, string>>;
  readonly allowInternet: boolean;
  /** The sandbox's id if omitted. */
  readonly hostname?: string | undefined;
  readonly autoPause: boolean;
  /** User-defined. */
  readonly labels: Readonly<Record<string, string>>;
  /** `templateId` names a snapshot, not an image; vCPUs, memory and disk are those of the snapshot. */
  readonly fromSnapshot: boolean;
  readonly fence?: number | undefined;
}

export const DEFAULT_DISK_MIB = SANDBOX_DEFAULTS.diskMb;
const MIN_MEMORY_MIB = 128;
const MIN_DISK_MIB = 64;
const MAX_TIMEOUT_SEC = 365 * 24 * 3600;
const MAX_ENVIRONMENT_BYTES = 512 * 1024;

/** Throws `invalid_request` for invalid values and `capacity_exceeded` for more than this host provides. */
export function checkedSpec(request: CreateRequest, limits: SandboxLimits): SandboxSpec {
  const { id, templateId = DEFAULT_TEMPLATE, templateName, defaultUser, hostname = id } = request;
  const { diskSizeMiB = DEFAULT_DISK_MIB } = request;
  require(isId('sandbox', id), `${JSON.stringify(id)} is not a sandbox id`);
  requireWhole('the number of vCPUs', request.vcpus, 1);
  requireWhole('the memory in MiB', request.memoryMiB, MIN_MEMORY_MIB);
  requireWhole('the size of the disk in MiB', diskSizeMiB, MIN_DISK_MIB);
  requireWhole('the idle timeout in seconds', request.timeoutSec, 0);
  require(request.timeoutSec <=
    MAX_TIMEOUT_SEC, `the idle timeout is ${request.timeoutSec} s; the maximum is ${MAX_TIMEOUT_SEC} s, and 0 means no limit`);
  requireCapacity('vCPUs', request.vcpus, limits.maxVcpus);
  requireCapacity('MiB of memory', request.memoryMiB, limits.maxMemoryMiB);
  requireCapacity('MiB of disk', diskSizeMiB, limits.maxDiskMiB);
  require(defaultUser === undefined ||
    /^[a-z_][a-z0-9_-]{0,31}$/.test(
      defaultUser,
    ), `${JSON.stringify(defaultUser)} is not a user name`);
  require(/^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/.test(
    hostname,
  ), `${JSON.stringify(hostname)} is not a host name`);
  checkEnvironment({ ...request.defaultEnv, ...request.envs });
  return {
    vcpus: request.vcpus,
    memoryMiB: request.memoryMiB,
    diskSizeMiB,
    timeoutSec: request.timeoutSec,
    teamId: request.teamId,
    templateId,
    ...(templateName === undefined ? {} : { templateName }),
    ...(defaultUser === undefined ? {} : { defaultUser }),
    allowInternet: request.allowInternet,
    autoPause: request.autoPause,
    hostname,
    labels: { ...request.labels },
  };
}

function checkEnvironment(envs: Readonly<Record<string, string>>): void {
  let size = 0;
  for (const [name, value] of Object.entries(envs)) {
    require(name !== '' &&
      !/[=\0]/.test(name) &&
      !value.includes('\0'), `${JSON.stringify(name)} cannot be an environment variable`);
    size += name.length + value.length;
  }
  require(size <=
    MAX_ENVIRONMENT_BYTES, `the environment has ${size} characters; the maximum is ${MAX_ENVIRONMENT_BYTES}`);
}

function requireWhole(name: string, value: number, least: number): void {
  require(Number.isSafeInteger(value) &&
    value >= least, `${name} must be a whole number of at least ${least}, not ${value}`);
}

function requireCapacity(what: string, asked: number, available: number): void {
  if (asked <= available) return;
  throw new TorporError(
    'capacity_exceeded',
    `The sandbox requests ${asked} ${what}; this host allows at most ${available} ${what}.`,
  );
}

function require(condition: boolean, what: string): void {
  if (!condition)
    throw new TorporError('invalid_request', `The sandbox cannot be created: ${what}.`);
}
