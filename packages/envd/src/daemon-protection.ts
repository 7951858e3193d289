import {
  accessSync,
  constants,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { setPriority } from 'node:os';

/** Strong, but below the kernel's own threads. */
const DAEMON_NICE = -15;
const DAEMON_OOM_SCORE_ADJ = -1000;
const CHILD_OOM_SCORE_ADJ = 100;
const CGROUP_ROOT = '/sys/fs/cgroup';
const CHILDREN_CGROUP = `${CGROUP_ROOT}/user`;

/**
 * Keeps the daemon answering while programs of the guest take all CPU and memory:
 * it is the last that the out-of-memory killer chooses and the first that the
 * scheduler runs; all programs together are one cgroup of ordinary weight.
 */
export class DaemonProtection {
  readonly #childrenProcs: string | undefined;

  private constructor(childrenProcs: string | undefined) {
    this.#childrenProcs = childrenProcs;
  }

  /** Protects this process. Needs root; what the kernel refuses is left as it was. */
  static enable(): DaemonProtection {
    attempt(() => writeFileSync('/proc/self/oom_score_adj', String(DAEMON_OOM_SCORE_ADJ)));
    // Nice values belong to threads; the ones that Node has started so far are listed here.
    for (const thread of readdirSync('/proc/self/task')) {
      attempt(() => setPriority(Number(thread), DAEMON_NICE));
    }
    // With automatic task groups a nice value counts only within the session.
    attempt(() => writeFileSync('/proc/self/autogroup', String(DAEMON_NICE)));
    return new DaemonProtection(makeChildrenCgroup());
  }

  /** Runs `fork` so that a process which it forks inherits no protection. Synchronous. */
  suspended<T>(fork: () => T): T {
    attempt(() => writeFileSync('/proc/self/oom_score_adj', String(CHILD_OOM_SCORE_ADJ)));
    attempt(() => setPriority(0));
    try {
      return fork();
    } finally {
      attempt(() => setPriority(DAEMON_NICE));
      attempt(() => writeFileSync('/proc/self/oom_score_adj', String(DAEMON_OOM_SCORE_ADJ)));
    }
  }

  /** Puts a process that was just started into the programs' cgroup. */
  admit(pid: number): void {
    const path = this.#childrenProcs;
    if (path === undefined) return;
    attempt(() => writeFileSync(path, String(pid)));
  }
}

/** Path of the cgroup's member file; undefined where cgroup2 is absent or read-only. */
function makeChildrenCgroup(): string | undefined {
  try {
    const controllers = readFileSync(`${CGROUP_ROOT}/cgroup.controllers`, 'utf8');
    accessSync(`${CGROUP_ROOT}/cgroup.procs`, constants.W_OK);
    mkdirSync(CHILDREN_CGROUP, { recursive: true });
    if (controllers.split(/\s+/).includes('cpu')) {
      attempt(() => writeFileSync(`${CGROUP_ROOT}/cgroup.subtree_control`, '+cpu'));
    }
    return `${CHILDREN_CGROUP}/cgroup.procs`;
  } catch {
    return undefined;
  }
}

/** Protection is best effort: a guest without a feature still has to run. */
function attempt(action: () => void): void {
  try {
    action();
  } catch {
    // The kernel lacks it or does not allow it.
  }
}
