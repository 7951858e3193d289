/**
 * The part of the memory agent that pauses, resumes, forks and snapshots: a build is a
 * UUID, and its references are in a map. Operations on one sandbox are serialised and
 * idempotent, as in the real agent.
 */
import { randomUUID } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { type hostAgent, type SandboxState, TorporError } from '@torpor/protocol';

type Info = hostAgent.SandboxInfo;
type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  | 'pauseSandbox'
  | 'resumeSandbox'
  | 'forkSandbox'
  | 'createSnapshot'
  | 'deleteSnapshot'
  | 'listSnapshots'
  | 'verifyBuilds'
  | 'collectBuilds'
>;

/** The parts of the agent that the builds use. */
export interface BuildOwner {
  enter(call: string): void;
  /** Throws `conflict`. */
  admit(resource: string, fence: bigint | undefined): void;
  /** Throws `not_found`. */
  require(id: string): Info;
  report(id: string, status: SandboxState, reason?: string): void;
  addSandbox(id: string, teamId: string): Info;
}

export const BUILD_SIZE_BYTES = 1_048_576;

interface Shape {
  readonly vcpus: number;
  readonly memoryMb: number;
}

export class MemoryBuilds {
  /** The builds of templates, by template id. */
  readonly templates = new Map<string, string>();
  readonly #sandboxBuilds = new Map<string, string>();
  readonly #builds = new Map<string, Shape>();
  readonly #queues = new Map<string, Promise<unknown>>();
  /** Faults that `verify` reports, by build. */
  readonly faults = new Map<string, string>();
  /** Awaited by every pause and snapshot, after the state has become transitional. */
  commitGate: Promise<void> = Promise.resolve();
  resumeGate: Promise<void> = Promise.resolve();
  /** Makes commits fail: the sandbox keeps running. */
  commitError: TorporError | undefined;
  resumeError: TorporError | undefined;
  deleteError: TorporError | undefined;
  /** The number of children, from the last, that a fork fails to create. */
  failingChildren = 0;

  /** Opens the gates, and lets nothing fail any more. */
  reset(): void {
    this.commitGate = Promise.resolve();
    this.resumeGate = Promise.resolve();
    this.commitError = undefined;
    this.resumeError = undefined;
    this.deleteError = undefined;
    this.failingChildren = 0;
  }

  /** All builds, referenced or not. */
  get ids(): string[] {
    return [...this.#builds.keys()];
  }

  /** The shape and the build of a template. Throws `not_found`. */
  frozen(templateId: string): { shape: Shape; buildId: string } {
    const buildId = this.templates.get(templateId);
    const shape = buildId === undefined ? undefined : this.#builds.get(buildId);
    if (buildId === undefined || shape === undefined) {
      throw new TorporError(
        'not_found',
        `This host has no snapshot ${templateId}.`,
      ).toConnectError();
    }
    return { shape, buildId };
  }

  /** A copy of the build of a template, as if its files had been copied to the host. */
  copyFrom(other: MemoryBuilds, templateId: string): void {
    const { shape, buildId } = other.frozen(templateId);
    this.#builds.set(buildId, shape);
    this.templates.set(templateId, buildId);
  }

  /** Records that a sandbox refers to the build that it runs from. */
  keep(sandboxId: string, buildId: string): void {
    this.#sandboxBuilds.set(sandboxId, buildId);
  }

  /** Removes the reference of a destroyed sandbox. */
  forget(sandboxId: string): void {
    this.#sandboxBuilds.delete(sandboxId);
  }

  /** Runs `action` after the earlier operations on the same sandbox. */
  queue<T>(id: string, action: () => Promise<T>): Promise<T> {
    const result = (this.#queues.get(id) ?? Promise.resolve()).then(action, action);
    this.#queues.set(
      id,
      result.catch(() => undefined),
    );
    return result;
  }

  /** Pauses a sandbox as the real agent does when its time to live expires. */
  autoPause(owner: BuildOwner, id: string): Promise<void> {
    return this.queue(id, async () => void (await this.#pause(owner, id)));
  }

  methods(owner: BuildOwner): Methods {
    return {
      ...this.#sandboxMethods(owner),
      ...this.#snapshotMethods(owner),
      ...this.#storeMethods(owner),
    };
  }

  #sandboxMethods(
    owner: BuildOwner,
  ): Pick<Methods, 'pauseSandbox' | 'resumeSandbox' | 'forkSandbox'> {
    return {
      pauseSandbox: ({ sandboxId, fence }) => {
        owner.enter('pauseSandbox');
        return this.queue(sandboxId, async () => {
          owner.admit(sandboxId, fence);
          if (owner.require(sandboxId).status !== 'paused') await this.#pause(owner, sandboxId);
          return { sandbox: { ...owner.require(sandboxId) }, timings: [phase('memory', 2)] };
        });
      },
      resumeSandbox: ({ sandboxId, timeoutSec, fence }) => {
        owner.enter('resumeSandbox');
        return this.queue(sandboxId, async () => {
          owner.admit(sandboxId, fence);
          const info = owner.require(sandboxId);
          if (info.status !== 'running') await this.#resume(owner, info);
          if (timeoutSec !== undefined) info.timeoutSec = timeoutSec;
          return { sandboxId, sandbox: { ...info }, timings: [phase('restore', 3)] };
        });
      },
      forkSandbox: async ({ sandboxId, childIds, timeoutSec, fence }) => {
        owner.enter('forkSandbox');
        for (const id of childIds) owner.admit(id, fence);
        const source = await this.queue(sandboxId, async () => {
          const info = owner.require(sandboxId);
          if (info.status === 'running') {
            owner.report(sandboxId, 'snapshotting');
            await this.#commit(owner, info);
            owner.report(sandboxId, 'running');
          } else if (info.status !== 'paused') throw notPossible(info, 'forked');
          return { ...info };
        });
        const children = childIds.map((id, index) => {
          if (index >= childIds.length - this.failingChildren) return failedChild(id);
          const child = owner.addSandbox(id, source.teamId);
          const { templateId, templateName, vcpus, memoryMb, denyInternet, autoPause, labels } =
            source;
          const spec = {
            templateId,
            templateName,
            vcpus,
            memoryMb,
            denyInternet,
            autoPause,
            labels,
          };
          Object.assign(child, { ...spec, timeoutSec });
          this.keep(id, buildOf(source));
          owner.report(id, 'running');
          return { sandboxId: id, outcome: { case: 'sandbox' as const, value: { ...child } } };
        });
        return { children, timings: [phase('children', 5)] };
      },
    };
  }

  #snapshotMethods(
    owner: BuildOwner,
  ): Pick<Methods, 'createSnapshot' | 'deleteSnapshot' | 'listSnapshots'> {
    return {
      createSnapshot: ({ sandboxId, templateId, fence }) => {
        owner.enter('createSnapshot');
        return this.queue(sandboxId, async () => {
          owner.admit(sandboxId, fence);
          owner.admit(templateId, fence);
          const info = owner.require(sandboxId);
          if (info.status !== 'paused') await this.#pause(owner, sandboxId);
          owner.admit(templateId, fence);
          this.templates.set(templateId, buildOf(info));
          return {
            sizeBytes: BigInt(BUILD_SIZE_BYTES),
            sandbox: { ...info },
            vcpus: info.vcpus,
            memoryMb: info.memoryMb,
            timings: [phase('memory', 2), phase('total', 4)],
          };
        });
      },
      listSnapshots: () => {
        owner.enter('listSnapshots');
        return { templateIds: [...this.templates.keys()] };
      },
      deleteSnapshot: ({ templateId, fence }) => {
        owner.enter('deleteSnapshot');
        owner.admit(templateId, fence);
        if (this.deleteError !== undefined) throw this.deleteError.toConnectError();
        this.templates.delete(templateId);
        return {};
      },
    };
  }

  #storeMethods(owner: BuildOwner): Pick<Methods, 'verifyBuilds' | 'collectBuilds'> {
    return {
      verifyBuilds: async function* (this: MemoryBuilds) {
        owner.enter('verifyBuilds');
        for (const buildId of this.ids) {
          const fault = this.faults.get(buildId);
          yield {
            buildId,
            ...(fault === undefined ? {} : { fault }),
            sizeBytes: BigInt(BUILD_SIZE_BYTES),
            references: this.#references(buildId),
          };
        }
      }.bind(this),
      collectBuilds: () => {
        owner.enter('collectBuilds');
        const removedBuildIds = this.ids.filter((id) => this.#references(id).length === 0);
        for (const id of removedBuildIds) this.#builds.delete(id);
        return { removedBuildIds, freedBytes: BigInt(removedBuildIds.length * BUILD_SIZE_BYTES) };
      },
    };
  }

  async #pause(owner: BuildOwner, id: string): Promise<void> {
    const info = owner.require(id);
    if (info.status !== 'running') throw notPossible(info, 'paused');
    owner.report(id, 'pausing');
    await this.#commit(owner, info);
    owner.report(id, 'paused');
  }

  async #commit(owner: BuildOwner, info: Info): Promise<void> {
    await this.commitGate;
    if (this.commitError !== undefined) {
      owner.report(info.sandboxId, 'running');
      throw this.commitError.toConnectError();
    }
    const buildId = randomUUID();
    this.#builds.set(buildId, { vcpus: info.vcpus, memoryMb: info.memoryMb });
    this.keep(info.sandboxId, buildId);
    info.buildId = buildId;
  }

  async #resume(owner: BuildOwner, info: Info): Promise<void> {
    if (info.buildId === undefined || !['paused', 'error'].includes(info.status)) {
      throw notPossible(info, 'resumed');
    }
    owner.report(info.sandboxId, 'resuming');
    await this.resumeGate;
    if (this.resumeError !== undefined) {
      owner.report(info.sandboxId, 'paused');
      throw this.resumeError.toConnectError();
    }
    owner.report(info.sandboxId, 'running');
  }

  #references(buildId: string): string[] {
    const naming = (kind: string, map: ReadonlyMap<string, string>) =>
      [...map].filter(([, id]) => id === buildId).map(([name]) => `${kind} ${name}`);
    return [...naming('sandbox', this.#sandboxBuilds), ...naming('template', this.templates)];
  }
}

function phase(name: string, milliseconds: number) {
  return { phase: name, milliseconds };
}

function buildOf({ sandboxId, buildId }: Info): string {
  if (buildId !== undefined) return buildId;
  throw new Error(`sandbox ${sandboxId} has no build`);
}

function notPossible(info: Info, participle: string) {
  const message = `Sandbox ${info.sandboxId} is ${info.status}; it cannot be ${participle}.`;
  return new TorporError('invalid_state', message).toConnectError();
}

function failedChild(
  sandboxId: string,
): MessageInitShape<typeof hostAgent.ForkResultSchema> & { sandboxId: string } {
  return {
    sandboxId,
    outcome: {
      case: 'failure',
      value: { message: 'The page server has no more room.', detail: { code: 'vmm_failed' } },
    },
  };
}
