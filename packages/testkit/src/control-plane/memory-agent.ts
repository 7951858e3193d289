/**
 * A host agent without virtual machines, for tests of the control plane: sandboxes
 * are records in memory, their programs are processes on this machine, their files
 * are in a temporary directory. It returns the same errors as the real one.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  type ConnectRouter,
  createRouterTransport,
  type ServiceImpl,
  type Transport,
} from '@connectrpc/connect';
import { Fences } from '@torpor/agent/testing';
import { hostAgent, type SandboxState, TorporError } from '@torpor/protocol';
import { Feed } from './feed.ts';
import { type BuildOwner, MemoryBuilds } from './memory-builds.ts';
import { MemoryFiles } from './memory-files.ts';
import { MemoryPrograms } from './memory-programs.ts';

type Info = hostAgent.SandboxInfo;
type Methods = ServiceImpl<typeof hostAgent.HostAgentService>;

/** Of the watch stream; as often as the real agent sends one at least. */
const KEEP_ALIVE_MS = 15_000;

export class MemoryAgent implements AsyncDisposable {
  /** Names of the calls that were received, in order. */
  readonly calls: string[] = [];
  readonly requests: hostAgent.CreateSandboxRequest[] = [];
  readonly sandboxes = new Map<string, Info>();
  readonly builds = new MemoryBuilds();
  readonly fences = new Fences(() => performance.now());
  readonly limits = { memoryMb: 4096, maxVcpus: 4, maxMemoryMb: 2048 };
  /** Names of its images. */
  images = ['python', 'base'];
  /** Address of sandboxes that are created from now on. */
  hostIp = '10.11.0.2';
  /** Larger than 64 KiB. */
  readonly console = Buffer.from(`Linux version 6.12\n${'.'.repeat(100_000)}\nready\n`);
  readonly root: string;
  readonly programs: MemoryPrograms;
  readonly files: MemoryFiles;
  readonly #watchers = new Set<Feed<Info | undefined>>();
  /** Awaited by every create, so that a test can block it. */
  createGate: Promise<void> = Promise.resolve();
  /** Awaited by every destroy. */
  destroyGate: Promise<void> = Promise.resolve();
  /** How many creates it had no memory for. */
  refusals = 0;
  /** Awaited by every call that only asks, so that a test can make the agent hang. */
  askGate: Promise<void> = Promise.resolve();
  /** Makes the next create fail. */
  createError: TorporError | undefined;
  destroyError: TorporError | undefined;
  /** While set, every call fails with it. */
  down: TorporError | undefined;
  #transport: Transport | undefined;

  private constructor(root: string) {
    this.root = root;
    this.programs = new MemoryPrograms(root);
    this.files = new MemoryFiles(root);
  }

  static async start(): Promise<MemoryAgent> {
    return new MemoryAgent(await mkdtemp(join(tmpdir(), 'torpor-memory-agent-')));
  }

  get transport(): Transport {
    this.#transport ??= createRouterTransport((router) => this.routes(router));
    return this.#transport;
  }

  /** What it is and has. */
  describe(): MessageInitShape<typeof hostAgent.DescribeHostResponseSchema> {
    const { memoryMb, maxVcpus, maxMemoryMb } = this.limits;
    return {
      arch: 'x86_64',
      cpuCores: 4,
      memoryMb: BigInt(memoryMb),
      maxVcpus,
      maxMemoryMb: BigInt(maxMemoryMb),
      images: this.images.map((name) => ({ name })),
      capacity: {
        arch: 'x64',
        vcpus: maxVcpus,
        memoryMb: BigInt(memoryMb),
        agentVersion: '0.0.0-test',
      },
    };
  }

  /** How many watch streams are open. */
  get watchers(): number {
    return this.#watchers.size;
  }

  /** The number of calls of this name so far. */
  count(name: string): number {
    return this.calls.filter((call) => call === name).length;
  }

  /** Changes a sandbox as the real agent would, and notifies the watchers. */
  report(id: string, status: SandboxState, reason?: string): void {
    const info = this.sandboxes.get(id);
    if (info === undefined) throw new Error(`no sandbox ${id}`);
    info.status = status;
    if (reason === undefined) delete info.reason;
    else info.reason = reason;
    if (status === 'stopped') {
      this.sandboxes.delete(id);
      this.builds.forget(id);
    }
    for (const watcher of this.#watchers) watcher.push({ ...info });
  }

  /** Fails every watch stream, and refuses all calls until {@link becomeReachable}. */
  becomeUnreachable(): void {
    this.down = new TorporError('host_unavailable', 'The host agent is unreachable.');
    for (const watcher of this.#watchers) watcher.end();
  }

  becomeReachable(): void {
    this.down = undefined;
  }

  addSandbox(
    id: string,
    teamId: string,
    fields: MessageInitShape<typeof hostAgent.SandboxInfoSchema> = {},
  ): Info {
    const info = create(hostAgent.SandboxInfoSchema, {
      sandboxId: id,
      status: 'running',
      teamId,
      templateId: 'base',
      vcpus: 1,
      memoryMb: 512,
      diskSizeMb: 1024,
      hostIp: this.hostIp,
      createdAtUnix: BigInt(Math.floor(Date.now() / 1000)),
      startedAtUnix: BigInt(Math.floor(Date.now() / 1000)),
      lastActiveAtUnix: BigInt(Math.floor(Date.now() / 1000)),
      ...fields,
    });
    this.sandboxes.set(id, info);
    return info;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const watcher of this.#watchers) watcher.end();
    this.programs.killAll();
    await rm(this.root, { recursive: true, force: true });
  }

  /** Pauses a sandbox as the real agent does when the time to live expires with `auto_pause`. */
  autoPause(id: string): Promise<void> {
    return this.builds.autoPause(this.#owner(), id);
  }

  #owner(): BuildOwner {
    return {
      enter: (call) => this.#enter(call),
      admit: (resource, fence) => this.#admit(resource, fence),
      require: (id) => this.#require(id),
      report: (id, status, reason) => this.report(id, status, reason),
      addSandbox: (id, teamId) => this.addSandbox(id, teamId),
    };
  }

  #enter(call: string): void {
    this.calls.push(call);
    if (this.down !== undefined) throw this.down.toConnectError();
  }

  #admit(resource: string, fence: bigint | undefined): void {
    try {
      this.fences.admit(resource, fence === undefined ? undefined : Number(fence));
    } catch (error) {
      throw TorporError.from(error).toConnectError();
    }
  }

  /** As the real agent, which looks at the memory that is left. */
  #requireMemory(memoryMb: number): void {
    let used = 0;
    for (const info of this.sandboxes.values()) {
      if (info.status !== 'paused' && info.status !== 'error') used += info.memoryMb;
    }
    if (used + memoryMb <= this.limits.memoryMb) return;
    this.refusals++;
    throw new TorporError('no_hosts_available', 'This host has no memory left.').toConnectError();
  }

  #requireImage(name: string): void {
    if (this.images.includes(name)) return;
    throw new TorporError('not_found', `There is no image ${name}.`).toConnectError();
  }

  #require(id: string): Info {
    const info = this.sandboxes.get(id);
    if (info === undefined)
      throw new TorporError('not_found', `No sandbox ${id}.`).toConnectError();
    return info;
  }

  /** Registers the HostAgentService with a Connect router. */
  routes(router: ConnectRouter): void {
    router.service(hostAgent.HostAgentService, {
      ...this.builds.methods(this.#owner()),
      ...this.programs.methods(this.#owner()),
      ...this.files.methods(this.#owner()),
      ...this.#lifecycleMethods(),
      ...this.#sandboxMethods(),
      ...this.#hostMethods(),
    });
  }

  #lifecycleMethods(): Pick<Methods, 'createSandbox' | 'destroySandbox'> {
    return {
      createSandbox: async (request) => {
        this.#enter('createSandbox');
        this.requests.push(request);
        await this.createGate;
        if (this.createError !== undefined) throw this.createError.toConnectError();
        this.#admit(request.sandboxId, request.fence);
        const { templateId = 'base' } = request;
        if (!request.fromSnapshot) this.#requireImage(templateId);
        const frozen = request.fromSnapshot ? this.builds.frozen(templateId) : undefined;
        this.#requireMemory(frozen?.shape.memoryMb ?? request.memoryMb);
        const info = this.addSandbox(request.sandboxId, request.teamId);
        const {
          vcpus,
          memoryMb,
          timeoutSec,
          templateName = templateId,
          denyInternet,
          autoPause,
          labels,
        } = request;
        const spec = {
          templateId,
          templateName,
          vcpus,
          memoryMb,
          timeoutSec,
          denyInternet,
          autoPause,
          labels,
        };
        Object.assign(info, { ...spec, ...frozen?.shape });
        if (frozen !== undefined) this.builds.keep(request.sandboxId, frozen.buildId);
        await mkdir(join(this.root, request.sandboxId), { recursive: true });
        this.report(request.sandboxId, 'running');
        return {
          sandboxId: request.sandboxId,
          hostIp: this.hostIp,
          metadata: { vmm: 'memory', envd_version: '0' },
          sandbox: info,
          timings: [{ phase: 'boot', milliseconds: 1.5 }],
        };
      },
      destroySandbox: async ({ sandboxId, fence }) => {
        this.#enter('destroySandbox');
        await this.destroyGate;
        if (this.destroyError !== undefined) throw this.destroyError.toConnectError();
        return this.builds.queue(sandboxId, async () => {
          this.#admit(sandboxId, fence);
          this.#require(sandboxId);
          this.programs.killAll(sandboxId);
          this.report(sandboxId, 'stopped');
          return {};
        });
      },
    };
  }

  #sandboxMethods(): Pick<Methods, 'getSandbox' | 'pingSandbox' | 'readConsole'> {
    return {
      getSandbox: async ({ sandboxId, fence }) => {
        this.#enter('getSandbox');
        await this.askGate;
        this.#admit(sandboxId, fence);
        return { sandbox: this.#require(sandboxId) };
      },
      pingSandbox: ({ sandboxId }) => {
        this.#enter('pingSandbox');
        this.#require(sandboxId);
        return {};
      },
      readConsole: ({ sandboxId, maxBytes }) => {
        this.#enter('readConsole');
        this.#require(sandboxId);
        return { content: this.console.subarray(-(maxBytes ?? 0)) };
      },
    };
  }

  #hostMethods(): Pick<Methods, 'listSandboxes' | 'watchSandboxes' | 'describeHost'> {
    return {
      listSandboxes: async () => {
        this.#enter('listSandboxes');
        await this.askGate;
        return { sandboxes: [...this.sandboxes.values()] };
      },
      watchSandboxes: async function* (
        this: MemoryAgent,
        _: unknown,
        { signal }: { signal: AbortSignal },
      ) {
        this.#enter('watchSandboxes');
        await this.askGate;
        const feed = new Feed<Info | undefined>();
        this.#watchers.add(feed);
        const keepAlive = setInterval(() => feed.push(undefined), KEEP_ALIVE_MS);
        signal.addEventListener('abort', () => feed.end());
        try {
          for (const info of this.sandboxes.values()) {
            yield { event: { case: 'sandbox' as const, value: { ...info } } };
          }
          yield { event: { case: 'synchronised' as const, value: {} } };
          for await (const info of feed) {
            if (info === undefined) yield { event: { case: 'keepalive' as const, value: {} } };
            else yield { event: { case: 'sandbox' as const, value: info } };
          }
          if (this.down !== undefined) throw this.down.toConnectError();
        } finally {
          clearInterval(keepAlive);
          this.#watchers.delete(feed);
        }
      }.bind(this),
      describeHost: () => {
        this.#enter('describeHost');
        return this.describe();
      },
    };
  }
}
