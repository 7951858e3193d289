import { mkdtemp, open, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type CreateRequest,
  collectBuilds,
  createSandbox,
  deleteSnapshot,
  destroyAll,
  destroySandbox,
  forkSandbox,
  pauseSandbox,
  recoverSandboxes,
  resumeSandbox,
  SandboxRegistry,
  snapshotSandbox,
  verifyBuilds,
} from '@torpor/agent/testing';
import { newId } from '@torpor/protocol';
import { Plan } from '../fault-points/index.ts';
import { StubHost } from './stub-host.ts';

/*
 * Operations of an agent on the stub host, for tests that inject faults at every point, and
 * the invariants that must hold after any fault.
 */

/** Blocks of RAM that the stub guests write to. */
const BLOCKS = [3, 700];
const BLOCK_BYTES = 4096;
/** More blocks than all others together, so that most of a build is dead once they change. */
const SCRATCH_START = 1000;
const SCRATCH_BLOCKS = 64;
export const TEMPLATE = 'template-1';

export function request(changes: Partial<CreateRequest> = {}): CreateRequest {
  return {
    id: newId('sandbox'),
    vcpus: 1,
    memoryMiB: 128,
    diskSizeMiB: 1024,
    timeoutSec: 0,
    teamId: '',
    templateId: 'base',
    defaultEnv: {},
    envs: {},
    allowInternet: true,
    labels: {},
    autoPause: false,
    fromSnapshot: false,
    ...changes,
  };
}

/** A host, its current agent, and one sandbox whose guest has written something. */
export class World implements AsyncDisposable {
  readonly host: StubHost;
  readonly source = newId('sandbox');
  readonly #keepBoots: boolean;
  plan: Plan;
  registry: SandboxRegistry;

  /** On a tmpfs: no test here needs data to survive a power failure. */
  static async open(plan = new Plan(), keepBoots = false): Promise<World> {
    const host = await StubHost.open(await mkdtemp('/dev/shm/torpor-points-'));
    return new World(host, plan, keepBoots);
  }

  private constructor(host: StubHost, plan: Plan, keepBoots: boolean) {
    this.host = host;
    this.plan = plan;
    this.#keepBoots = keepBoots;
    this.registry = plan.run(() => new SandboxRegistry(this.#parts()));
  }

  /** Starts the next agent, after the current one was killed or closed. */
  async nextAgent(): Promise<void> {
    await this.host.restart();
    this.plan = new Plan();
    this.registry = await this.plan.run(() => recoverSandboxes(this.#parts()));
  }

  async createSource(): Promise<void> {
    await createSandbox(this.registry, request({ id: this.source }));
    await this.write(this.source, 1);
  }

  /** Changes RAM, also to zeros, and disk, as the guest of a running sandbox. */
  async write(id: string, value: number): Promise<void> {
    await using memory = await open(this.host.layout.memoryFile(id), 'r+');
    const [first = 0, second = 0] = BLOCKS;
    await memory.write(Buffer.alloc(BLOCK_BYTES, value), 0, BLOCK_BYTES, first * BLOCK_BYTES);
    const other = value % 2 === 0 ? 0 : value;
    await memory.write(Buffer.alloc(BLOCK_BYTES, other), 0, BLOCK_BYTES, second * BLOCK_BYTES);
    await writeFile(this.host.layout.upperDisk(id), `disk ${value}`);
  }

  /** Fills memory that {@link read} does not check; with 0, its blocks become dead in older builds. */
  async scratch(id: string, value: number): Promise<void> {
    await using memory = await open(this.host.layout.memoryFile(id), 'r+');
    const bytes = Buffer.alloc(SCRATCH_BLOCKS * BLOCK_BYTES, value);
    await memory.write(bytes, 0, bytes.length, SCRATCH_START * BLOCK_BYTES);
  }

  /** The value that {@link write} wrote last; throws if RAM and disk differ. */
  async read(id: string): Promise<number> {
    await using memory = await open(this.host.layout.memoryFile(id));
    const blocks = [];
    for (const block of BLOCKS) {
      const bytes = Buffer.alloc(BLOCK_BYTES);
      await memory.read(bytes, 0, BLOCK_BYTES, block * BLOCK_BYTES);
      const value = bytes.readUInt8(0);
      if (!bytes.equals(Buffer.alloc(BLOCK_BYTES, value)))
        throw new Error(`block ${block} is torn`);
      blocks.push(value);
    }
    const disk = await readFile(this.host.layout.upperDisk(id), 'utf8');
    const [value = -1, other] = blocks;
    if (disk !== `disk ${value}` || other !== (value % 2 === 0 ? 0 : value)) {
      throw new Error(`RAM holds ${blocks.join(' and ')}, the disk ${JSON.stringify(disk)}`);
    }
    return value;
  }

  states(): Record<string, string> {
    return Object.fromEntries(this.registry.list().map(({ id, state }) => [id, state]));
  }

  isKnown(id: string): boolean {
    return this.registry.list().some((record) => record.id === id);
  }

  async faults(): Promise<string[]> {
    const faults: string[] = [];
    for await (const { buildId, fault } of verifyBuilds(this.registry.host)) {
      if (fault !== undefined) faults.push(`${buildId}: ${fault}`);
    }
    for (const { kind, name, buildId } of this.host.builds.references.all()) {
      const isThere = (await this.host.builds.list()).includes(buildId);
      if (!isThere) faults.push(`${kind} ${name} refers to ${buildId}, which is not there`);
    }
    return faults;
  }

  /** Resumes a sandbox that is paused, or has failed and has a build. */
  async revive(id: string): Promise<void> {
    if (this.registry.get(id).state !== 'running') await resumeSandbox(this.registry, id);
    const pid = this.registry.get(id).machine?.pid ?? -1;
    if (!this.host.driver.living().includes(pid)) throw new Error(`${id} has no VMM`);
    if (this.host.driver.stopped.has(pid)) throw new Error(`the vCPUs of ${id} are stopped`);
  }

  /** Removes everything; returns what is left after that. */
  async clear(): Promise<string[]> {
    const { host } = this;
    await deleteSnapshot(this.registry, TEMPLATE);
    await destroyAll(this.registry);
    for (const { kind, name } of host.builds.references.all()) {
      if (name.startsWith('boot-')) await host.builds.references.delete(kind, name);
    }
    await collectBuilds(this.registry.host);
    await this.registry.close();
    // What could not be removed after a fault is removed at the next start.
    await this.nextAgent();
    await this.registry.close();
    const files = await readdir(join(host.directory, 'builds'));
    const references = await readdir(join(host.directory, 'references'));
    return [...(await host.leftovers()), ...files, ...references];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A killed agent never closes; any other must be closed before its host.
    if (!this.plan.isDead) await this.registry.close();
    await this.host[Symbol.asyncDispose]();
  }

  #parts() {
    return this.host.parts({ guestTimeoutMs: 2_000, keepBoots: this.#keepBoots });
  }
}

export interface Scenario {
  readonly name: string;
  readonly keepBoots?: boolean;
  readonly prepare: (world: World) => Promise<unknown>;
  readonly act: (world: World) => Promise<unknown>;
  /** The value that the source's guest wrote last; undefined if the source is destroyed. */
  readonly expected?: number;
}

/** Prepares a sandbox that was restored, and has written something since. */
async function restoredSource(world: World): Promise<void> {
  await world.createSource();
  await pauseSandbox(world.registry, world.source);
  await resumeSandbox(world.registry, world.source);
  await world.write(world.source, 2);
}

/** Prepares one whose next build names an ancestor of which little is still used, and so needs compaction. */
export async function sourceWithDeadAncestor(world: World): Promise<void> {
  await world.createSource();
  await world.scratch(world.source, 1);
  await pauseSandbox(world.registry, world.source);
  await resumeSandbox(world.registry, world.source);
  await world.scratch(world.source, 0);
  await world.write(world.source, 2);
}

async function snapshot(world: World, resumeSource: boolean): Promise<void> {
  await snapshotSandbox(world.registry, world.source, TEMPLATE, { resumeSource });
}

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'the pause of a sandbox that was booted',
    prepare: (world) => world.createSource(),
    act: (world) => pauseSandbox(world.registry, world.source),
    expected: 1,
  },
  {
    name: 'the pause of a sandbox that was restored',
    prepare: restoredSource,
    act: (world) => pauseSandbox(world.registry, world.source),
    expected: 2,
  },
  {
    name: 'a pause with a compaction',
    prepare: sourceWithDeadAncestor,
    act: (world) => pauseSandbox(world.registry, world.source),
    expected: 2,
  },
  {
    name: 'a resume',
    prepare: async (world) => {
      await restoredSource(world);
      await pauseSandbox(world.registry, world.source);
    },
    act: (world) => resumeSandbox(world.registry, world.source),
    expected: 2,
  },
  {
    name: 'a snapshot after which the sandbox keeps running',
    prepare: restoredSource,
    act: (world) => snapshot(world, true),
    expected: 2,
  },
  {
    name: 'a snapshot that pauses the sandbox and replaces another',
    prepare: async (world) => {
      await world.createSource();
      await snapshot(world, true);
      await world.write(world.source, 2);
    },
    act: (world) => snapshot(world, false),
    expected: 2,
  },
  {
    name: 'a fork',
    prepare: restoredSource,
    act: async (world) => {
      const childIds = [newId('sandbox'), newId('sandbox')];
      const { children } = await forkSandbox(world.registry, world.source, childIds, 0);
      for (const { result } of children) if (result instanceof Error) throw result;
    },
    expected: 2,
  },
  {
    name: 'the removal of a snapshot',
    prepare: async (world) => {
      await world.createSource();
      await snapshot(world, true);
    },
    act: (world) => deleteSnapshot(world.registry, TEMPLATE),
    expected: 1,
  },
  {
    name: 'a collection',
    prepare: async (world) => {
      await restoredSource(world);
      await snapshot(world, true);
      await world.write(world.source, 3);
      await pauseSandbox(world.registry, world.source);
      await deleteSnapshot(world.registry, TEMPLATE);
    },
    act: (world) => collectBuilds(world.registry.host),
    expected: 3,
  },
  {
    name: 'a creation from a snapshot',
    prepare: async (world) => {
      await world.createSource();
      await snapshot(world, false);
    },
    act: (world) =>
      createSandbox(world.registry, request({ templateId: TEMPLATE, fromSnapshot: true })),
    expected: 1,
  },
  {
    name: 'a creation whose boot is kept',
    keepBoots: true,
    prepare: () => Promise.resolve(),
    act: (world) => createSandbox(world.registry, request()),
  },
  {
    name: 'a creation from a kept boot',
    keepBoots: true,
    prepare: (world) => world.createSource(),
    act: (world) => createSandbox(world.registry, request()),
    expected: 1,
  },
  {
    name: 'the end of a sandbox that was restored',
    prepare: restoredSource,
    act: (world) => destroySandbox(world.registry, world.source),
  },
  {
    name: 'the end of a paused sandbox',
    prepare: async (world) => {
      await world.createSource();
      await pauseSandbox(world.registry, world.source);
    },
    act: (world) => destroySandbox(world.registry, world.source),
  },
];
