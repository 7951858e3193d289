export const RUN_AS_ROOT = 'Run the command as root, for example with sudo.';

/** The result of a check: `detail` is a path, a version, or what is wrong. */
export interface CheckResult {
  /** `absent`: does not exist, and is not needed. */
  readonly state: 'found' | 'absent' | 'missing' | 'degraded';
  readonly detail: string;
  /** What to do, where it is not what the requirement says. */
  readonly remedy?: string;
}

/** A requirement of the host. Set-up and doctor use the table of them. */
export interface Requirement {
  readonly id: string;
  /** What needs it, as the rest of "needed for …". */
  readonly purpose: string;
  /** Checks it, and changes nothing. Never throws. */
  readonly check: () => Promise<CheckResult>;
  /** Debian packages that provide it. Empty: no package can. */
  readonly packages: readonly string[];
  /** Its kernel modules that exist and are not loaded: set-up loads them. */
  readonly unloadedModules?: () => Promise<readonly string[]>;
  /** What to do if set-up cannot help, as a sentence. */
  readonly remedy: string;
}

/** A fact that doctor reports beyond the requirements: it can warn, but set-up cannot help. */
export interface Fact {
  readonly id: string;
  readonly result: CheckResult;
  readonly remedy: string;
}

export interface CheckedRequirement {
  readonly requirement: Requirement;
  readonly result: CheckResult;
}

/** What to do about a requirement if set-up cannot help. */
export function remedyOf({ requirement, result }: CheckedRequirement): string {
  return result.remedy ?? requirement.remedy;
}

/** Checks all requirements at once. */
export function checkRequirements(
  requirements: readonly Requirement[],
): Promise<CheckedRequirement[]> {
  return Promise.all(
    requirements.map(async (requirement) => ({ requirement, result: await requirement.check() })),
  );
}
