import { randomUUID } from 'node:crypto';
import { chmod, mkdir, open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  createSandbox,
  type HostContext,
  type NetworkSlot,
  PageServer,
  pauseSandbox,
  recoverSandboxes,
  SandboxRegistry,
  type SlotRequest,
  snapshotSandbox,
  writeRecord,
} from '@torpor/agent/testing';
import { runCommand } from '@torpor/linux';
import { PagerClient } from '@torpor/pager';
import { isId } from '@torpor/protocol';
import { request, StubHost, StubSlots, silentLogger } from '@torpor/testkit/agent';
import { type FakeBehaviour, FakeInstallation } from '@torpor/testkit/firecracker';
import { FirecrackerDriver, killLeftovers, vmmPlatform } from '@torpor/vmm';

/*
 * An agent with the real Firecracker driver, pager and builds. Not real are Firecracker, whose
 * strict fake has a guest that counts in its RAM and prints where that is wrong, and envd in
 * that guest.
 */

const COUNT_TIMEOUT_MS = 60_000;
const CHUNK_BYTES = 2 ** 20;

export interface WorldOptions {
  readonly behaviour?: FakeBehaviour;
  readonly keepBoots?: boolean;
}

export class FirecrackerWorld implements AsyncDisposable {
  readonly host: StubHost;
  readonly fakes: FakeInstallation;
  registry: SandboxRegistry;
  readonly #driver: FirecrackerDriver;
  readonly #options: WorldOptions;
  readonly #slots: NamespaceSlots;
  #pages: PageServer;

  static async open(options: WorldOptions = {}): Promise<FirecrackerWorld> {
    const host = await StubHost.open();
    const fakes = await FakeInstallation.create();
    const witness = join(fakes.directory, 'witness');
    await mkdir(witness);
    // The fake has no privileges.
    await chmod(witness, 0o777);
    const firecracker = await fakes.install({ ...options.behaviour, witness });
    return new FirecrackerWorld(host, fakes, new FirecrackerDriver({ firecracker }), options);
  }

  private constructor(
    host: StubHost,
    fakes: FakeInstallation,
    driver: FirecrackerDriver,
    options: WorldOptions,
  ) {
    this.host = host;
    this.fakes = fakes;
    this.#driver = driver;
    this.#options = options;
    this.#slots = new NamespaceSlots(() => host.journal);
    this.#pages = this.#pageServer();
    this.registry = new SandboxRegistry(this.parts());
  }

  /** The context of an agent on this host. */
  parts(changes: Partial<HostContext> = {}): HostContext {
    const parts = this.host.parts();
    return {
      ...parts,
      driver: this.#driver,
      vmm: vmmPlatform({ driver: 'firecracker', vmmVersion: '1.16.1', accelerator: 'kvm' }),
      slots: this.#slots,
      pages: this.#pages,
      keepBoots: this.#options.keepBoots ?? false,
      ...changes,
    };
  }

  /** Stops the current agent, runs `between` without one, and starts the next. */
  async nextAgent(
    between: () => Promise<void> = async () => undefined,
    changes: Partial<HostContext> = {},
  ): Promise<void> {
    await this.registry.close();
    await this.#pages.close();
    await between();
    await this.host.restart();
    this.#slots.forgetLeases();
    this.#pages = this.#pageServer();
    const parts = this.parts(changes);
    this.registry = await recoverSandboxes(parts);
  }

  /** A sandbox whose guest has counted a little. */
  async create(): Promise<string> {
    const { record } = await createSandbox(this.registry, request());
    await this.counts(record.id);
    return record.id;
  }

  /** Commits a sandbox that keeps running; returns the build's id. */
  async snapshot(id: string, templateId = 'template-1'): Promise<string> {
    const { build } = await snapshotSandbox(this.registry, id, templateId, { resumeSource: true });
    return build.id;
  }

  /** Returns the id of the build. */
  async pause(id: string): Promise<string> {
    const { record } = await pauseSandbox(this.registry, id);
    return record.buildId ?? '';
  }

  /** Waits until the guest has counted `more` times, and its RAM was right. */
  async counts(id: string, more = 8): Promise<void> {
    const before = await this.#count(id);
    const deadline = performance.now() + COUNT_TIMEOUT_MS;
    while ((await this.#count(id)) < before + more) {
      if (performance.now() > deadline) throw new Error(`the guest of ${id} does not continue`);
      await sleep(50);
    }
    const console = await readFile(this.host.layout.consoleLog(id), 'utf8');
    const wrong = /guest: page \d+ is wrong/.exec(console);
    if (wrong !== null) throw new Error(`${id}: ${wrong[0]}`);
  }

  /** The first page of a build's memory that differs from the guest's at that time; undefined if none does. */
  async wrongPage(buildId: string, machineId: string): Promise<number | undefined> {
    const build = await this.host.builds.get(buildId);
    await using memory = await this.host.builds.openMemory(build);
    await using witness = await open(join(this.fakes.directory, 'witness', machineId));
    const [built, seen] = [Buffer.alloc(CHUNK_BYTES), Buffer.alloc(CHUNK_BYTES)];
    const bytes = build.manifest.memoryMiB * 2 ** 20;
    if ((await witness.stat()).size !== bytes) throw new Error('the witness has another size');
    for (let at = 0; at < bytes; at += CHUNK_BYTES) {
      await memory.read(built, at / 4096);
      await witness.read(seen, 0, CHUNK_BYTES, at);
      for (let page = 0; page < CHUNK_BYTES; page += 4096) {
        if (built.compare(seen, page, page + 4096, page, page + 4096) !== 0) {
          return (at + page) / 4096;
        }
      }
    }
    return undefined;
  }

  /** The types of snapshots that were requested since the last call. */
  async snapshotsTaken(): Promise<unknown[]> {
    const taken = (await this.fakes.calls()).filter(({ call }) => call === 'PUT /snapshot/create');
    return taken.map(({ body }) => body.snapshot_type);
  }

  /** Writes a sandbox's record as a killed agent could have left it for the next one. */
  async rewind(id: string, record: Parameters<typeof writeRecord>[1]): Promise<void> {
    await writeRecord(this.host.layout.recordFile(id), record);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.registry.close();
    await this.#pages.close();
    const { layout } = this.host;
    for (const id of await readdir(layout.runRoot)) {
      if (isId('sandbox', id)) await killLeftovers(layout.runDirectory(id));
    }
    const pager = await PagerClient.connect(layout.pagerSocket).catch(() => undefined);
    if (pager !== undefined) {
      pager.client.close();
      process.kill(pager.hello.pid, 'SIGKILL');
    }
    await this.#slots.removeAll();
    await this.host[Symbol.asyncDispose]();
    await this.fakes[Symbol.asyncDispose]();
  }

  async #count(id: string): Promise<number> {
    const text = await readFile(this.host.layout.consoleLog(id), 'utf8').catch(() => '');
    return Number([...text.matchAll(/guest: count (\d+)\r/g)].at(-1)?.[1] ?? 0);
  }

  #pageServer(): PageServer {
    const { pagerSocket, pagerLog } = this.host.layout;
    return new PageServer({ socketPath: pagerSocket, logPath: pagerLog, logger: silentLogger() });
  }
}

/** Slots that are only network namespaces with a tap device. */
class NamespaceSlots extends StubSlots {
  readonly #prefix = `torpor-fc-${randomUUID().slice(0, 8)}-`;
  readonly #made = new Set<string>();

  override async acquire(request: SlotRequest): Promise<NetworkSlot> {
    return await this.#real(await super.acquire(request));
  }

  override async adopt(owner: string, index: number): Promise<NetworkSlot> {
    return await this.#real(await super.adopt(owner, index));
  }

  async removeAll(): Promise<void> {
    for (const namespace of this.#made) await runCommand('ip', ['netns', 'delete', namespace]);
    this.#made.clear();
  }

  async #real(slot: NetworkSlot): Promise<NetworkSlot> {
    const namespace = `${this.#prefix}${slot.index}`;
    const tapDevice = 'tap0';
    if (!this.#made.has(namespace)) {
      this.#made.add(namespace);
      await runCommand('ip', ['netns', 'add', namespace]);
      await runCommand('ip', ['-n', namespace, 'tuntap', 'add', tapDevice, 'mode', 'tap']);
    }
    return { ...slot, namespace, tapDevice };
  }
}
