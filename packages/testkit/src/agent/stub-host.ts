import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type DataLayout,
  FileJournal,
  GuestSecrets,
  type HostContext,
  type NetworkSlot,
  openLayout,
  type SlotRequest,
} from '@torpor/agent/testing';
import { LocalBuildStore } from '@torpor/builds';
import { copySparse, dataExtents } from '@torpor/linux';
import { FORWARDING_TRACER, TorporError } from '@torpor/protocol';
import { vmmPlatform } from '@torpor/vmm';
import { type Logger, pino } from 'pino';
import { closeHandles, point } from '../fault-points/index.ts';
import { StubDriver, StubPages } from './stub-vmm.ts';

/*
 * A host without virtual machines and namespaces, for tests of the rest of the agent: the
 * journal, the records, the processes and the HTTP to the guest are real, a VMM is a `sleep`,
 * a slot is a number, and all guests share one server. It survives the "crash" of an agent, as
 * a real host does.
 */

const ARTIFACTS = ['base.ext4', 'bzImage', 'vmlinux', 'initramfs', 'agent-drive'] as const;

type HostSlots = HostContext['slots'];
type Hook = () => void | Promise<void>;

export class StubHost implements AsyncDisposable {
  readonly directory: string;
  readonly layout: DataLayout;
  readonly pages = new StubPages();
  readonly driver = new StubDriver(this.pages);
  readonly slots: StubSlots;
  readonly guests: StubGuests;
  builds: LocalBuildStore;
  journal: FileJournal;
  /** Milliseconds of the agent's clock. */
  clock = 0;
  beforeDisk: Hook = () => undefined;
  readonly #registries: { close(): Promise<void> }[] = [];

  /** `directory`: the data directory; a new temporary one if omitted. */
  static async open(dataDir?: string): Promise<StubHost> {
    const directory = dataDir ?? (await mkdtemp(join(tmpdir(), 'torpor-agent-')));
    const layout = await openLayout(directory);
    await mkdir(join(directory, 'artifacts'), { recursive: true });
    for (const name of ARTIFACTS) await writeFile(join(directory, 'artifacts', name), '');
    const journal = await FileJournal.open(layout.journalFile);
    const builds = await LocalBuildStore.open({ directory, dataExtents, copySparse });
    return new StubHost(directory, layout, journal, builds, await StubGuests.open());
  }

  private constructor(
    directory: string,
    layout: DataLayout,
    journal: FileJournal,
    builds: LocalBuildStore,
    guests: StubGuests,
  ) {
    this.builds = builds;
    this.directory = directory;
    this.layout = layout;
    this.journal = journal;
    this.guests = guests;
    this.slots = new StubSlots(() => this.journal);
  }

  /** The artifacts of this host's machines: empty files. */
  artifact(name: (typeof ARTIFACTS)[number]): string {
    return join(this.directory, 'artifacts', name);
  }

  parts(changes: Partial<HostContext> = {}): HostContext {
    return {
      layout: this.layout,
      journal: journalWithPoints(this.journal),
      slots: this.slots,
      driver: this.driver,
      vmm: vmmPlatform({ driver: 'qemu', vmmVersion: '10.0.0', accelerator: 'tcg' }),
      builds: this.builds,
      pages: this.pages,
      keepBoots: false,
      images: {
        resolve: async (name) => {
          if (name === 'base') return { name, path: this.artifact('base.ext4') };
          throw new TorporError('not_found', `There is no image ${name}.`);
        },
        list: async () => [],
      },
      artifacts: {
        kernel: {
          version: '6.12',
          bzImagePath: this.artifact('bzImage'),
          vmlinuxPath: this.artifact('vmlinux'),
          qemuPath: this.artifact('vmlinux'),
        },
        initramfsPath: this.artifact('initramfs'),
        agentDrivePath: this.artifact('agent-drive'),
        envdVersion: '0.6.4',
      },
      kernelArguments: ['quiet'],
      createUpperDisk: async (path) => {
        await this.beforeDisk();
        await point('make the disk', 'write', () => writeFile(path, 'disk', { flag: 'wx' }));
      },
      secrets: new GuestSecrets(Buffer.alloc(32, 7)),
      limits: { maxVcpus: 4, maxMemoryMiB: 4096, maxDiskMiB: 100_000 },
      nameservers: ['192.0.2.53'],
      logger: silentLogger(),
      tracer: FORWARDING_TRACER,
      now: () => this.clock,
      guestTimeoutMs: 30_000,
      stepTimeoutMs: 30_000,
      concurrentBoots: 3,
      agentVersion: '0.1.0',
      guestUrl: () => this.guests.url,
      ...changes,
    };
  }

  /** Closes the registry before the host is disposed of, so that it does not react to the exits of its machines. */
  manage<T extends { close(): Promise<void> }>(registry: T): T {
    this.#registries.push(registry);
    return registry;
  }

  /** Prepares the start of another agent: the journal is read from disk, and no slot is in use. */
  async restart(): Promise<void> {
    await this.journal[Symbol.asyncDispose]();
    this.journal = await FileJournal.open(this.layout.journalFile);
    this.builds = await LocalBuildStore.open({
      directory: this.directory,
      dataExtents,
      copySparse,
    });
    this.slots.forgetLeases();
  }

  /** Everything that sandboxes have left on this host. */
  async leftovers(): Promise<string[]> {
    const { sandboxesRoot, runRoot, memoryRoot } = this.layout;
    const roots = [sandboxesRoot, runRoot, memoryRoot];
    const files = await Promise.all(roots.map((root) => readdir(root)));
    return [
      ...files.flat(),
      ...this.journal.entries().map((entry) => `journal: ${JSON.stringify(entry)}`),
      ...this.slots.leased.keys().map((index) => `slot ${index}`),
      ...this.driver.living().map((pid) => `process ${pid}`),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#registries.map((registry) => registry.close()));
    this.driver.killAll();
    await this.guests.close();
    await this.journal[Symbol.asyncDispose]();
    await closeHandles();
    await rm(this.layout.memoryRoot, { recursive: true, force: true });
    await rm(this.layout.runRoot, { recursive: true, force: true });
    await rm(this.directory, { recursive: true, force: true });
  }
}

function journalWithPoints(journal: FileJournal): HostContext['journal'] {
  return {
    record: (owner, resource) =>
      point(`journal ${resource.kind}`, 'call', () => journal.record(owner, resource)),
    forget: (resource) => point(`forget ${resource.kind}`, 'call', () => journal.forget(resource)),
    entries: () => journal.entries(),
  };
}

export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}

export class StubSlots implements HostSlots {
  readonly leased = new Map<number, NetworkSlot>();
  /** Slots whose connections to the guest were reset. */
  readonly resets: number[] = [];
  beforeAcquire: Hook = () => undefined;
  beforeRelease: Hook = () => undefined;
  readonly #journal: () => FileJournal;
  readonly #owners = new Map<number, string>();
  #leases = 0;

  constructor(journal: () => FileJournal) {
    this.#journal = journal;
  }

  acquire(request: SlotRequest): Promise<NetworkSlot> {
    return point('acquire a slot', 'call', () => this.#acquire(request));
  }

  async #acquire({ owner, preferredIndex = 0 }: SlotRequest): Promise<NetworkSlot> {
    await this.beforeAcquire();
    let index = this.leased.has(preferredIndex) ? 0 : preferredIndex;
    while (this.leased.has(index)) index++;
    const slot = this.#lease(index, owner);
    await this.#journal().record(owner, { kind: 'network-slot', index });
    return slot;
  }

  release(slot: NetworkSlot): Promise<void> {
    return point('release the slot', 'call', () => this.#release(slot));
  }

  async #release(slot: NetworkSlot): Promise<void> {
    await this.beforeRelease();
    const current = this.leased.get(slot.index);
    if (current !== undefined && current.lease !== slot.lease) {
      throw new Error(`slot ${slot.index} was released after it had been handed out again`);
    }
    await this.#journal().forget({ kind: 'network-slot', index: slot.index });
    this.leased.delete(slot.index);
  }

  async adopt(owner: string, index: number): Promise<NetworkSlot> {
    return this.#lease(index, owner);
  }

  destroySlot(index: number, owner?: string): Promise<void> {
    return point('destroy the slot', 'call', () => this.#destroy(index, owner));
  }

  async #destroy(index: number, owner?: string): Promise<void> {
    await this.beforeRelease();
    if (this.leased.has(index) && this.#owners.get(index) !== owner) {
      throw new TorporError('conflict', `Slot ${index} is handed out.`);
    }
    await this.#journal().forget({ kind: 'network-slot', index });
    this.leased.delete(index);
  }

  async resetConnections(index: number): Promise<void> {
    this.resets.push(index);
  }

  forgetLeases(): void {
    this.leased.clear();
  }

  #lease(index: number, owner: string): NetworkSlot {
    this.#owners.set(index, owner);
    const slot = {
      index,
      lease: String(this.#leases++),
      namespace: `ns${index}`,
      tapDevice: `tap${index}`,
      hostAddress: `10.0.0.${index + 1}`,
    };
    this.leased.set(index, slot);
    return slot;
  }
}

/** One HTTP server for all guests. */
class StubGuests {
  readonly url: string;
  healthy = true;
  initStatus = 204;
  readonly inits: unknown[] = [];
  readonly #server: Server;

  static async open(): Promise<StubGuests> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new StubGuests(server);
  }

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('request', async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk);
      if (request.url === '/init') {
        this.inits.push(JSON.parse(Buffer.concat(chunks).toString()));
        response.writeHead(this.initStatus).end();
        return;
      }
      if (request.url === '/health') response.writeHead(this.healthy ? 204 : 503).end();
      else {
        // No programs can run in a stub guest: respond as Connect does to an unknown call.
        response.writeHead(404, { 'content-type': 'application/json' });
        response.end('{"code":"unimplemented"}');
      }
    });
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
