import { readdirSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { type ExplainExit, ProgramGroups } from './program-groups.ts';

/** Strong, but below the kernel's own threads. */
const DAEMON_NICE = -15;
const DAEMON_OOM_SCORE_ADJ = -1000;
const CHILD_OOM_SCORE_ADJ = 100;

/**
 * Keeps the daemon responsive while programs of the guest use all CPU, memory and processes:
 * the out-of-memory killer chooses it last, the scheduler prefers it, and programs share limits
 * ({@link ProgramGroups}).
 */
export class DaemonProtection {
  readonly #isFirst: boolean;
  readonly #isSpared: boolean;
  readonly #groups: ProgramGroups | undefined;

  private constructor(isFirst: boolean, isSpared: boolean, groups: ProgramGroups | undefined) {
    this.#isFirst = isFirst;
    this.#isSpared = isSpared;
    this.#groups = groups;
  }

  /** Protects this process. Needs root; settings that the kernel refuses are unchanged. */
  static enable(cgroupRoot?: string): DaemonProtection {
    const isSpared = setOomScore(DAEMON_OOM_SCORE_ADJ);
    // Nice values are per thread; this lists those that Node has started so far.
    const raised = readdirSync('/proc/self/task').map((thread) =>
      attempt(() => setPriority(Number(thread), DAEMON_NICE)),
    );
    // With automatic task groups a nice value counts only within the session.
    attempt(() => writeFileSync('/proc/self/autogroup', String(DAEMON_NICE)));
    return new DaemonProtection(raised.every(Boolean), isSpared, ProgramGroups.make(cgroupRoot));
  }

  /**
   * Runs `fork` so that a process which it forks inherits no protection, at the latest after
   * {@link admit}. Synchronous.
   */
  suspended<T>(fork: () => T): T {
    // A nice value that could not be set needs no restoring. With groups, admit() sets the
    // score: a daemon that gave up its own for a moment could be killed in it.
    const inheritsScore = this.#isSpared && this.#groups === undefined;
    if (inheritsScore) setOomScore(CHILD_OOM_SCORE_ADJ);
    if (this.#isFirst) attempt(() => setPriority(0));
    try {
      return fork();
    } finally {
      if (this.#isFirst) attempt(() => setPriority(DAEMON_NICE));
      if (inheritsScore) setOomScore(DAEMON_OOM_SCORE_ADJ);
    }
  }

  /**
   * Moves a process that was just started for an account into its programs' group. Returns what
   * explains its exit, if there are groups.
   */
  admit(pid: number, uid: number): ExplainExit | undefined {
    return this.#groups?.admit(pid, uid);
  }
}

function setOomScore(value: number): boolean {
  return attempt(() => writeFileSync('/proc/self/oom_score_adj', String(value)));
}

/** Whether the kernel accepted it. Protection is best effort: a guest without a feature must still work. */
function attempt(action: () => void): boolean {
  try {
    action();
    return true;
  } catch {
    return false;
  }
}
