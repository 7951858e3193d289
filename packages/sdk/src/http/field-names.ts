import { TorporError } from '@torpor/protocol/basics';

/** Fields of the API whose names in the options of the SDK differ, but are the same everywhere. */
const SDK_NAMES: Readonly<Record<string, string>> = {
  memory_mb: 'memoryMiB',
  disk_size_mb: 'diskSizeMiB',
  auto_pause: 'autoPause',
  allow_internet: 'allowInternet',
  host_tags: 'hostTags',
  sandbox_id: 'sandboxId',
  expires_at: 'expiresAt',
  event_types: 'eventTypes',
  resource_id: 'resourceId',
  max_bytes: 'maxBytes',
  state: 'states',
  cols: 'size.cols',
  rows: 'size.rows',
  timeout_sec: 'timeoutMs',
  new_password: 'newPassword',
  current_password: 'currentPassword',
  is_admin: 'isAdmin',
  default_user: 'defaultUser',
  default_env: 'defaultEnv',
};

/** The name of a sandbox's `timeout_sec`, which differs from that of a program. */
export const IDLE_TIMEOUT_NAMES = { timeout_sec: 'idleTimeoutMs' } as const;

/**
 * Returns `promise`, but with an error about fields that names them as in the SDK's options, in
 * its message and in its `issues`.
 */
export async function withSdkNames<T>(
  promise: Promise<T>,
  names: Readonly<Record<string, string>> = {},
): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    if (!(error instanceof TorporError) || error.issues.length === 0) throw error;
    const issues = error.issues.map(({ field, problem }) => ({
      field: sdkName(field, { ...SDK_NAMES, ...names }),
      problem,
    }));
    const { code, remedy, requestId } = error;
    const options = { remedy, issues, requestId, cause: error };
    throw new TorporError(code, describeIssues(issues), options);
  }
}

function sdkName(field: string, names: Readonly<Record<string, string>>): string {
  const [first = '', ...rest] = field.split('.');
  return [Object.hasOwn(names, first) ? names[first] : first, ...rest].join('.');
}

function describeIssues(issues: TorporError['issues']): string {
  return `Invalid options: ${issues.map(({ field, problem }) => `${field} ${problem}`).join('; ')}.`;
}
