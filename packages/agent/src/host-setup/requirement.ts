/** What a check found: `detail` is a path, a version, or what is wrong. */
export interface CheckResult {
  /** `absent`: not there, and not needed either. */
  readonly state: 'found' | 'absent' | 'missing' | 'degraded';
  readonly detail: string;
}

/** One thing that the host must have. The table of them serves set-up and doctor. */
export interface Requirement {
  readonly id: string;
  /** What needs it, as the end of "needed for …". */
  readonly purpose: string;
  /** Looks only; changes nothing. Never throws. */
  readonly check: () => Promise<CheckResult>;
  /** Debian packages that provide it. Empty: no package can. */
  readonly packages: readonly string[];
  /** The kernel modules that it wants, are there and are not loaded: set-up loads them. */
  readonly unloadedModules?: () => Promise<readonly string[]>;
  /** What to do when set-up cannot help, as a sentence. */
  readonly remedy: string;
}

/** Something that doctor looks at beyond the requirements: it can warn, but set-up cannot help. */
export interface Fact {
  readonly id: string;
  readonly result: CheckResult;
  readonly remedy: string;
}

export interface CheckedRequirement {
  readonly requirement: Requirement;
  readonly result: CheckResult;
}

/** Checks all requirements at once. */
export function checkRequirements(
  requirements: readonly Requirement[],
): Promise<CheckedRequirement[]> {
  return Promise.all(
    requirements.map(async (requirement) => ({ requirement, result: await requirement.check() })),
  );
}
