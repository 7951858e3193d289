import { AsyncLocalStorage } from 'node:async_hooks';
import type { FileHandle } from 'node:fs/promises';

/*
 * Every call of an agent under test to files, VMMs, pager, slots and journal is a point. A plan
 * follows one run of an agent through everything that it awaits, counts its points, and at one
 * of them makes the call fail, or kills the agent as `kill -9` would: none of its code runs
 * after that point, not even its clean-up.
 */

export type Fault =
  /** Only counts. */
  | { readonly kind: 'none' }
  /** This point fails, the others do not. */
  | { readonly kind: 'fail'; readonly at: number }
  /** From this point on the disk is full: nothing can be created or written, until {@link Plan.lift}. */
  | { readonly kind: 'full'; readonly at: number }
  | { readonly kind: 'crash'; readonly at: number };

/** The effect of a point, which determines how it can fail. */
export type Effect = 'read' | 'write' | 'remove' | 'call';

const plans = new AsyncLocalStorage<Plan>();
const handles = new Set<FileHandle>();

export class Plan {
  /** The names of the points so far. */
  readonly names: string[] = [];
  /** Resolves when the agent has been killed. */
  readonly crashed: Promise<void>;
  readonly #crash = Promise.withResolvers<void>();
  readonly #fault: Fault;
  #armed = false;
  #dead = false;
  #underWay = 0;

  constructor(fault: Fault = { kind: 'none' }) {
    this.#fault = fault;
    this.crashed = this.#crash.promise;
  }

  /** Runs an agent, or a part of it, with this plan. */
  run<T>(action: () => T): T {
    return plans.run(this, action);
  }

  /** From now on points count. */
  arm(): void {
    this.#armed = true;
  }

  /** From now on nothing fails any more. */
  lift(): void {
    this.#armed = false;
  }

  /** The name of the point that the fault was at; undefined if it was not reached. */
  get reached(): string | undefined {
    return this.#fault.kind === 'none' ? undefined : this.names[this.#fault.at];
  }

  async pass<T>(name: string, effect: Effect, action: () => Promise<T>): Promise<T> {
    if (this.#dead) return never();
    if (this.#armed) {
      const index = this.names.push(name) - 1;
      if (this.#fault.kind === 'crash' && index === this.#fault.at) {
        this.#dead = true;
        this.#crash.resolve();
        return never();
      }
      const error = this.#error(index, name, effect);
      if (error !== undefined) throw error;
    }
    this.#underWay++;
    try {
      return await action();
    } finally {
      this.#underWay--;
      // The call was in progress when the agent was killed: it takes effect, but never returns.
      if (this.#dead) await never();
    }
  }

  /** Whether the agent has been killed. */
  get isDead(): boolean {
    return this.#dead;
  }

  /** Whether the system calls that were in progress when the agent was killed have finished. */
  get isStill(): boolean {
    return this.#underWay === 0;
  }

  #error(index: number, name: string, effect: Effect): Error | undefined {
    const fault = this.#fault;
    if (fault.kind === 'fail' && index === fault.at) {
      if (effect === 'write') return errno('ENOSPC', name);
      return effect === 'call' ? new Error(`${name} failed`) : errno('EIO', name);
    }
    if (fault.kind === 'full' && index >= fault.at && effect === 'write') {
      return errno('ENOSPC', name);
    }
    return undefined;
  }
}

/** Runs `action` as a point; without a plan it only runs it. Calls within `action` are no points. */
export function point<T>(name: string, effect: Effect, action: () => Promise<T>): Promise<T> {
  const plan = plans.getStore();
  if (plan === undefined) return action();
  return plan.pass(name, effect, () => plans.exit(action));
}

type FileSystem = typeof import('node:fs/promises');

const EFFECTS = {
  readFile: 'read',
  readdir: 'read',
  stat: 'read',
  access: 'read',
  writeFile: 'write',
  mkdir: 'write',
  rename: 'write',
  link: 'write',
  copyFile: 'write',
  rm: 'remove',
} as const satisfies Partial<Record<keyof FileSystem, Effect>>;

const HANDLE_EFFECTS = {
  write: 'write',
  writeFile: 'write',
  truncate: 'write',
  sync: 'write',
  datasync: 'write',
} as const satisfies Partial<Record<keyof FileHandle, Effect>>;

/** `node:fs/promises` with a point at each of its calls; for `vi.mock`. */
export function withPoints(real: FileSystem): FileSystem {
  const mocked: Record<string, unknown> = { ...real };
  for (const [name, effect] of Object.entries(EFFECTS)) {
    const call = real[name as keyof typeof EFFECTS] as (...args: unknown[]) => Promise<unknown>;
    mocked[name] = (...args: unknown[]) =>
      point(`${name} ${baseName(args)}`, effect, () => call(...args));
  }
  mocked.open = async (...args: Parameters<FileSystem['open']>) => {
    const effect = String(args[1] ?? 'r').startsWith('r') ? 'read' : 'write';
    // Recorded before the agent that would close it can be killed.
    return point(`open ${baseName(args)}`, effect, async () =>
      watched(await real.open(...args), args),
    );
  };
  return mocked as unknown as FileSystem;
}

/** Closes the files that killed agents had open. */
export async function closeHandles(): Promise<void> {
  for (const handle of handles) await handle.close();
}

function watched(handle: FileHandle, args: readonly unknown[]): FileHandle {
  handles.add(handle);
  const close = handle.close.bind(handle);
  handle.close = async () => {
    handles.delete(handle);
    await close();
  };
  const methods = handle as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>;
  for (const [name, effect] of Object.entries(HANDLE_EFFECTS)) {
    const call = (methods[name] as (...args: unknown[]) => Promise<unknown>).bind(handle);
    methods[name] = (...more: unknown[]) =>
      point(`${name} ${baseName(args)}`, effect, () => call(...more));
  }
  return handle;
}

/** The last part of a path without the parts that differ between runs. */
function baseName(args: readonly unknown[]): string {
  const name = String(args.at(0)).split('/').at(-1) ?? '';
  return name.replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-z]{16,}/g, '*');
}

function errno(code: string, name: string): Error {
  return Object.assign(new Error(`${code}: ${name}`), { code });
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}
