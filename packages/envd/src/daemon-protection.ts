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
const CHILDREN_CGROUP = 'user';

/**
 * Keeps the daemon answering while programs of the guest take all CPU and memory:
 * it is the last that the out-of-memory killer chooses and the first that the
 * scheduler runs; all programs together are one cgroup of ordinary weight.
 */
export class DaemonProtection {
  readonly #isFirst: boolean;
  readonly #isSpared: boolean;
  readonly #childrenProcs: string | undefined;

  private constructor(isFirst: boolean, isSpared: boolean, childrenProcs: string | undefined) {
    this.#isFirst = isFirst;
    this.#isSpared = isSpared;
    this.#childrenProcs = childrenProcs;
  }

  /** Protects this process. Needs root; what the kernel refuses is left as it was. */
  static enable(cgroupRoot = CGROUP_ROOT): DaemonProtection {
    const isSpared = setOomScore(DAEMON_OOM_SCORE_ADJ);
    // Nice values belong to threads; the ones that Node has started so far are listed here.
    const raised = readdirSync('/proc/self/task').map((thread) =>
      attempt(() => setPriority(Number(thread), DAEMON_NICE)),
    );
    // With automatic task groups a nice value counts only within the session.
    attempt(() => writeFileSync('/proc/self/autogroup', String(DAEMON_NICE)));
    return new DaemonProtection(raised.every(Boolean), isSpared, makeChildrenCgroup(cgroupRoot));
  }

  /** Runs `fork` so that a process which it forks inherits no protection. Synchronous. */
  suspended<T>(fork: () => T): T {
    // What could not be taken could not be taken back either.
    if (this.#isSpared) setOomScore(CHILD_OOM_SCORE_ADJ);
    if (this.#isFirst) attempt(() => setPriority(0));
    try {
      return fork();
    } finally {
      if (this.#isFirst) attempt(() => setPriority(DAEMON_NICE));
      if (this.#isSpared) setOomScore(DAEMON_OOM_SCORE_ADJ);
    }
  }

  /** Puts a process that was just started into the programs' cgroup. */
  admit(pid: number): void {
    const path = this.#childrenProcs;
    if (path !== undefined) attempt(() => writeFileSync(path, String(pid)));
  }
}

function setOomScore(value: number): boolean {
  return attempt(() => writeFileSync('/proc/self/oom_score_adj', String(value)));
}

/** Path of the cgroup's member file; undefined where cgroup2 is absent or read-only. */
function makeChildrenCgroup(root: string): string | undefined {
  try {
    const controllers = readFileSync(`${root}/cgroup.controllers`, 'utf8');
    accessSync(`${root}/cgroup.procs`, constants.W_OK);
    const children = `${root}/${CHILDREN_CGROUP}`;
    mkdirSync(children, { recursive: true });
    if (controllers.split(/\s+/).includes('cpu')) {
      attempt(() => writeFileSync(`${root}/cgroup.subtree_control`, '+cpu'));
    }
    return `${children}/cgroup.procs`;
  } catch {
    return undefined;
  }
}

/** Whether the kernel did it. Protection is best effort: a guest without a feature still has to run. */
function attempt(action: () => void): boolean {
  try {
    action();
    return true;
  } catch {
    return false;
  }
}
