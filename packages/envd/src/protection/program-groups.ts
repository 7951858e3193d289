import { accessSync, constants, mkdirSync, readFileSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ProcessExit } from '../process-exit.ts';

const CGROUP_ROOT = '/sys/fs/cgroup';
const KIB = 1024;
const MIB = 1024 ** 2;

/** The counterpart of the daemon's nice value. */
const DAEMON_CPU_NICE = -15;
/** Node with its page cache and heap, which the kernel does not reclaim for others. */
const DAEMON_MEMORY_BYTES = 80 * MIB;
/** Node's own threads are about a dozen; the rest is for what a program forks before it is moved. */
const DAEMON_PIDS = 128;
/** A few passes move what programs have forked by then, since no more than that fits in. */
const MAX_PASSES = 50;
const PROGRAM_OOM_SCORE_ADJ = 100;
/**
 * The memory of a waiting shell. So a fork bomb reaches this limit before that of memory, where
 * all would wait for pages.
 */
const BYTES_PER_PROCESS = 512 * KIB;

/** A terminal uses some 40 KB of kernel memory, which is accounted to no group: all together get an eighth. */
const BYTES_PER_TERMINAL = 40 * KIB;
const MAX_TERMINALS = 4096;
/** The share of these for the guest's own /dev/pts, not those of containers. */
const RESERVED_TERMINALS = 32;

/** An event this long ago does not explain why a program exited. */
const RECENT_MS = 5_000;

/** The properties of the machine that determine the limits. */
export interface Machine {
  /** Memory that programs can use without reclaiming the daemon's. */
  readonly availableBytes: number;
  /** How many threads the kernel allows in all. */
  readonly threads: number;
}

export interface Limits {
  readonly memoryBytes: number;
  readonly pids: number;
}

/** The limits of all programs of each account together. */
export interface ProgramLimits {
  readonly all: Limits;
  readonly unprivileged: Limits;
}

/**
 * Reserves what the kernel and envd need, and what root's programs need to kill those of other
 * accounts.
 */
export function programLimits({ availableBytes, threads }: Machine): ProgramLimits {
  const forKernel = Math.min(64 * MIB, availableBytes / 4) + availableBytes / 64;
  const all = Math.floor(availableBytes - forKernel);
  const unprivileged = Math.floor(all - Math.min(64 * MIB, all / 16));
  const limits = (memoryBytes: number, maxPids: number): Limits => ({
    memoryBytes,
    pids: Math.min(Math.floor(memoryBytes / BYTES_PER_PROCESS), Math.floor(maxPids)),
  });
  return {
    all: limits(all, threads * 0.8),
    // RLIMIT_NPROC, which the kernel sets to half, would keep envd from starting even one more.
    unprivileged: limits(unprivileged, threads * 0.4),
  };
}

/** Adds the kernel's reason to a program's exit. */
export type ExplainExit = (exit: ProcessExit) => ProcessExit;

/**
 * The control groups of the guest; cgroups(7):
 *
 *     /                  kernel threads, and groups of the guest's container runtimes
 *     ├─ torpor          tini and envd; /init of the initramfs makes it and starts them in it
 *     └─ programs        everything that envd starts, and its descendants, of any account
 *        ├─ root
 *        └─ unprivileged
 *
 * A fork bomb or a memory hog is stopped by its group's limit, and envd, in a group of its own,
 * is not affected. Moving a process into a full group is allowed, so a single program can be
 * started whatever the others do. No process may be in the inner node `programs`; the root has
 * no such rule, so container runtimes can create their groups beside these.
 */
export class ProgramGroups {
  readonly #daemon: string;
  readonly #root: ProgramGroup;
  readonly #unprivileged: ProgramGroup;

  private constructor(root: string) {
    this.#daemon = join(root, 'torpor');
    const programs = join(root, 'programs');
    this.#root = new ProgramGroup(join(programs, 'root'), programs);
    this.#unprivileged = new ProgramGroup(join(programs, 'unprivileged'), programs);
  }

  /**
   * Creates the groups and moves this process into its own. Undefined without a writable
   * cgroup2; a controller that the kernel lacks sets no limit.
   */
  static make(root = CGROUP_ROOT, machine = readMachine()): ProgramGroups | undefined {
    const programs = join(root, 'programs');
    try {
      accessSync(join(root, 'cgroup.procs'), constants.W_OK);
      for (const name of ['torpor', 'programs/root', 'programs/unprivileged']) {
        mkdirSync(join(root, name), { recursive: true });
      }
    } catch {
      return undefined;
    }
    for (const group of [root, programs]) {
      for (const controller of ['cpu', 'memory', 'pids']) {
        set(group, 'cgroup.subtree_control', `+${controller}`);
      }
    }
    const { all, unprivileged } = programLimits(machine);
    setLimits(programs, all);
    setLimits(join(programs, 'unprivileged'), unprivileged);
    const daemon = join(root, 'torpor');
    set(daemon, 'memory.min', String(DAEMON_MEMORY_BYTES));
    set(daemon, 'pids.max', String(DAEMON_PIDS));
    set(daemon, 'cpu.weight.nice', String(DAEMON_CPU_NICE));
    set(daemon, 'cgroup.procs', String(process.pid));
    const terminals = Math.floor(machine.availableBytes / 8 / BYTES_PER_TERMINAL);
    set('/proc/sys/kernel/pty', 'reserve', String(RESERVED_TERMINALS));
    set('/proc/sys/kernel/pty', 'max', String(Math.min(MAX_TERMINALS, terminals)));
    // Otherwise the kernel logs all processes whenever it kills one, which takes seconds in a
    // busy guest.
    set('/proc/sys/vm', 'oom_dump_tasks', '0');
    return new ProgramGroups(root);
  }

  /**
   * Moves a process that was just started, and what it has forked meanwhile, out of envd's
   * group, and makes it one that the out-of-memory killer prefers.
   */
  admit(pid: number, uid: number): ExplainExit {
    const group = uid === 0 ? this.#root : this.#unprivileged;
    const explain = group.explainer();
    group.take(pid);
    for (let pass = 0; pass < MAX_PASSES; pass += 1) {
      const strays = membersOf(this.#daemon).filter((member) => !DAEMONS.has(member));
      if (strays.length === 0) break;
      for (const stray of strays) group.take(stray);
    }
    return explain;
  }
}

/** tini and envd. */
const DAEMONS: ReadonlySet<number> = new Set([process.ppid, process.pid]);

class ProgramGroup {
  readonly #path: string;
  readonly #outOfMemory: EventCounter;
  /** Its own limit, and that of all programs. */
  readonly #outOfProcesses: readonly EventCounter[];

  constructor(path: string, parent: string) {
    this.#path = path;
    this.#outOfMemory = new EventCounter(join(path, 'memory.events'), 'oom_kill');
    this.#outOfProcesses = [path, parent].map(
      (group) => new EventCounter(join(group, 'pids.events.local'), 'max'),
    );
  }

  /**
   * First the score, which children inherit: earlier children are found in envd's group, later
   * ones have the score.
   */
  take(pid: number): void {
    set('/proc', `${pid}/oom_score_adj`, String(PROGRAM_OOM_SCORE_ADJ));
    set(this.#path, 'cgroup.procs', String(pid));
  }

  /** To be called before the program can have reached a limit. */
  explainer(): ExplainExit {
    const startMs = performance.now();
    this.#outOfMemory.read();
    for (const counter of this.#outOfProcesses) counter.read();
    return (end) => {
      if (end.error === undefined) return end;
      const why = this.#reason(end, startMs);
      return why === undefined ? end : { ...end, error: `${end.error}: ${why}` };
    };
  }

  #reason({ exitCode, exited }: ProcessExit, startMs: number): string | undefined {
    const isKilled = exited ? exitCode === SHELL_KILLED : true;
    if (isKilled && this.#outOfMemory.happenedSince(startMs)) return 'out of memory';
    if (exited && this.#outOfProcesses.some((counter) => counter.happenedSince(startMs))) {
      return 'out of processes';
    }
    return undefined;
  }
}

/** The status of a shell whose last program was terminated by SIGKILL. */
const SHELL_KILLED = 128 + 9;

/** A counter of the kernel, in a file of the form `name value` per line, and when it last rose. */
class EventCounter {
  readonly #path: string;
  readonly #name: string;
  #value: number;
  #roseMs = Number.NEGATIVE_INFINITY;

  constructor(path: string, name: string) {
    this.#path = path;
    this.#name = name;
    this.#value = this.#current();
    try {
      // The kernel reports changes of these files to inotify.
      watch(path, { persistent: false }, () => this.read()).on('error', () => undefined);
    } catch {
      // Without a watch, it is read on request.
    }
  }

  read(): void {
    const value = this.#current();
    if (value > this.#value) this.#roseMs = performance.now();
    this.#value = value;
  }

  /** Whether it rose after `startMs`, and not long ago. */
  happenedSince(startMs: number): boolean {
    this.read();
    return this.#roseMs >= Math.max(startMs, performance.now() - RECENT_MS);
  }

  #current(): number {
    try {
      const text = readFileSync(this.#path, 'utf8');
      return Number(new RegExp(`^${this.#name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
    } catch {
      return 0;
    }
  }
}

function readMachine(): Machine {
  const meminfo = readFileSync('/proc/meminfo', 'utf8');
  const [, kibibytes] = /^MemAvailable: +(\d+) kB$/m.exec(meminfo) ?? [];
  const setting = (name: string) => Number(readFileSync(`/proc/sys/kernel/${name}`, 'utf8'));
  return {
    availableBytes: Number(kibibytes) * KIB,
    threads: Math.min(setting('threads-max'), setting('pid_max')),
  };
}

function setLimits(group: string, { memoryBytes, pids }: Limits): void {
  set(group, 'memory.max', String(memoryBytes));
  set(group, 'pids.max', String(pids));
}

function membersOf(group: string): number[] {
  try {
    const text = readFileSync(join(group, 'cgroup.procs'), 'utf8');
    return text.split('\n').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** Best effort: a guest whose kernel lacks a feature must still work. */
function set(group: string, file: string, value: string): void {
  try {
    writeFileSync(join(group, file), value);
  } catch {
    // Then there is no such limit, or the process has exited already.
  }
}
