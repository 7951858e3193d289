import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  FileJournal,
  GuestClient,
  GuestSecrets,
  type NetworkSlot,
  openSlotPool,
  readRecord,
  recordFileIn,
  type SlotPool,
} from '@torpor/agent/testing';
import {
  BLOCK_SIZE,
  type Build,
  type BuildStore,
  LocalBuildStore,
  type RestoreFiles,
} from '@torpor/builds';
import { copySparse, dataExtents, runCommand } from '@torpor/linux';
import { GUEST, TorporError } from '@torpor/protocol';
import { removeInstance, testInstance } from '@torpor/testkit/agent';
import type { MachineSpec } from '@torpor/vmm';
import { pino } from 'pino';
import { execInGuest } from './exec-in-guest.ts';
import type { Platform } from './platform.ts';

const MEMORY_ROOT = '/dev/shm';
const RESPONSE_TIMEOUT_MS = 300_000;
const COPY_TIMEOUT_MS = 120_000;
const PROBE_TIMEOUT_MS = 2000;
const PROBE_INTERVAL_MS = 5;
const CHUNK_BLOCKS = 256;
const ZERO_BLOCK = Buffer.alloc(BLOCK_SIZE);

/**
 * The guest of a paused sandbox, which a benchmark restores without the host agent: in its own
 * network slots and directories, with memory from any source.
 */
export class FrozenGuest implements AsyncDisposable {
  readonly build: Build;
  readonly files: RestoreFiles;
  /** All of RAM in one sparse file. */
  readonly imagePath: string;
  /** On a disk, for the benchmark's files. */
  readonly directory: string;
  readonly #machine: MachineSpec;
  readonly #store: BuildStore;
  readonly #accessToken: string;
  readonly #sandboxId: string;
  readonly #memoryDirectory: string;
  readonly #slots: SlotPool;
  readonly #resources: AsyncDisposableStack;
  #machines = 0;

  /** A sandbox that has run a few programs, paused. */
  static async freeze(platform: Platform): Promise<FrozenGuest> {
    await using stack = new AsyncDisposableStack();
    const sandbox = await platform.create();
    stack.defer(() => sandbox.destroy());
    for (let count = 0; count < 3; count++) await sandbox.exec('true');
    const recordFile = recordFileIn(platform.dataDir, sandbox.id);
    const machine = (await readRecord(recordFile))?.machine?.spec;
    await sandbox.pause();
    const buildId = (await readRecord(recordFile))?.buildId;
    if (machine === undefined || buildId === undefined) {
      throw new Error(`The record of sandbox ${sandbox.id} names no machine, or no build.`);
    }
    const directory = await mkdtemp('/tmp/torpor-frozen-');
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    // A copy: opening a store removes incomplete builds, which the platform may be creating.
    await runCommand('cp', ['-a', '--sparse=always', join(platform.dataDir, 'builds'), directory], {
      timeoutMs: COPY_TIMEOUT_MS,
    });
    const store = await LocalBuildStore.open({ directory, dataExtents, copySparse });
    const memoryDirectory = await mkdtemp(join(MEMORY_ROOT, 'torpor-frozen-'));
    stack.defer(() => rm(memoryDirectory, { recursive: true, force: true }));
    const build = await store.get(buildId);
    const imagePath = join(directory, 'image');
    await writeImage(store, build, imagePath);
    const key = await readFile(join(platform.dataDir, 'keys', 'guest.key'));
    const slots = await openSlots(directory, stack);
    return new FrozenGuest(
      {
        build,
        files: await store.open(build),
        store,
        machine,
        directory,
        memoryDirectory,
        imagePath,
        slots,
      },
      { sandboxId: sandbox.id, accessToken: new GuestSecrets(key).accessToken(sandbox.id) },
      stack.move(),
    );
  }

  private constructor(
    parts: {
      readonly build: Build;
      readonly files: RestoreFiles;
      readonly store: BuildStore;
      readonly machine: MachineSpec;
      readonly directory: string;
      readonly memoryDirectory: string;
      readonly imagePath: string;
      readonly slots: SlotPool;
    },
    identity: { readonly sandboxId: string; readonly accessToken: string },
    resources: AsyncDisposableStack,
  ) {
    this.build = parts.build;
    this.files = parts.files;
    this.imagePath = parts.imagePath;
    this.directory = parts.directory;
    this.#machine = parts.machine;
    this.#store = parts.store;
    this.#accessToken = identity.accessToken;
    this.#sandboxId = identity.sandboxId;
    this.#memoryDirectory = parts.memoryDirectory;
    this.#slots = parts.slots;
    this.#resources = resources;
  }

  /** A copy of {@link imagePath} on tmpfs. */
  async imageOnTmpfs(): Promise<string> {
    const path = join(this.#memoryDirectory, 'image');
    await copySparse(this.imagePath, path);
    return path;
  }

  /** A network slot for one machine at a time. */
  async slot(): Promise<NetworkSlot & AsyncDisposable> {
    const slot = await this.#slots.acquire({ owner: randomUUID(), allowInternet: false });
    return { ...slot, [Symbol.asyncDispose]: () => this.#slots.release(slot) };
  }

  /** The spec of a machine like the frozen one, with a copy of its disk. */
  async machine(slot: NetworkSlot): Promise<MachineSpec> {
    const id = `frozen-${++this.#machines}`;
    const runDirectory = join(this.directory, id);
    await mkdir(runDirectory, { mode: 0o700 });
    const disk = join(runDirectory, 'disk');
    await this.#store.materialise(this.build, disk);
    const { user: _, ...machine } = this.#machine;
    return {
      ...machine,
      id,
      drives: machine.drives.map((drive) => (drive.readOnly ? drive : { ...drive, path: disk })),
      network: {
        namespace: slot.namespace,
        tapDevice: slot.tapDevice,
        macAddress: GUEST.macAddress,
      },
      runDirectory,
      memoryFile: join(this.#memoryDirectory, id),
      console: { ...machine.console, path: join(runDirectory, 'console.log') },
    };
  }

  /** Resolves when a program has run in the guest of this slot. */
  async firstExec(slot: NetworkSlot): Promise<void> {
    const guest = new GuestClient({
      sandboxId: this.#sandboxId,
      baseUrl: `http://${slot.hostAddress}:${GUEST.envdPort}`,
      accessToken: this.#accessToken,
    });
    try {
      const deadline = performance.now() + RESPONSE_TIMEOUT_MS;
      while (!(await guest.isHealthy(PROBE_TIMEOUT_MS))) {
        if (performance.now() > deadline) throw new Error('The restored guest does not respond.');
        await delay(PROBE_INTERVAL_MS);
      }
      await execInGuest(guest);
    } finally {
      guest.close(new TorporError('guest_unreachable', 'The measurement has finished.'));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }
}

async function openSlots(directory: string, stack: AsyncDisposableStack): Promise<SlotPool> {
  const stateFile = join(directory, 'network.json');
  const journal = stack.use(await FileJournal.open(join(directory, 'resources.jsonl')));
  const instance = testInstance();
  stack.defer(() => removeInstance({ instance, stateFile }));
  const logger = pino({ level: 'silent' });
  const slots = await openSlotPool({
    instance,
    journal,
    stateFile,
    logger,
    poolSize: 0,
  });
  stack.defer(() => slots.close());
  return slots;
}

/** Writes all of a build's RAM to one file, with holes for zeros; afterwards it is in the page cache. */
async function writeImage(store: BuildStore, build: Build, path: string): Promise<void> {
  await using memory = await store.openMemory(build);
  await using image = await open(path, 'wx', 0o600);
  const { blockCount } = build.header.mapping;
  await image.truncate(blockCount * BLOCK_SIZE);
  const chunk = Buffer.alloc(CHUNK_BLOCKS * BLOCK_SIZE);
  for (let block = 0; block < blockCount; block += CHUNK_BLOCKS) {
    const piece = chunk.subarray(0, Math.min(CHUNK_BLOCKS, blockCount - block) * BLOCK_SIZE);
    await memory.read(piece, block);
    for (let at = 0; at < piece.length; at += BLOCK_SIZE) {
      const page = piece.subarray(at, at + BLOCK_SIZE);
      if (!page.equals(ZERO_BLOCK)) await image.write(page, 0, BLOCK_SIZE, block * BLOCK_SIZE + at);
    }
  }
}
