import { type ChildProcess, spawn } from 'node:child_process';
import { open, readFile, rm, writeFile } from 'node:fs/promises';
import type { PageService, PageServiceRequest } from '@torpor/agent/testing';
import { BLOCK_SIZE, parseMemoryHeader, ZERO_INDEX } from '@torpor/builds';
import { dataExtents, identifyProcess, isProcessAlive, signalProcess } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import {
  type Capture,
  type CaptureTarget,
  captureOf,
  type DirtyBase,
  type ExitReport,
  type MachineDescription,
  type MachineSpec,
  type MemoryOrigin,
  type MicroVm,
  type RestoreSource,
  type VmmDriver,
} from '@torpor/vmm';
import { point } from '../fault-points/index.ts';

/*
 * VMMs that are a `sleep` each, and a pager that fills their memory files at once. The
 * memory file, the disk and the state are real files, so that builds can be made from them
 * and machines restored from builds. They can also take snapshots, as Firecracker does.
 */

export class StubDriver implements VmmDriver {
  readonly kind = 'qemu';
  readonly capabilities = { memoryFile: true, kernelFormat: 'any' } as const;
  beforeStart: (spec: MachineSpec) => void | Promise<void> = () => undefined;
  afterStart: (vm: StubVm) => void = () => undefined;
  beforeKill: (vm: StubVm) => void | Promise<void> = () => undefined;
  beforeSave: (vm: StubVm) => void | Promise<void> = () => undefined;
  /** Whether machines write their RAM out when they are captured, as Firecracker does. */
  takesSnapshots = false;
  /** Pids of the machines whose vCPUs are stopped. */
  readonly stopped = new Set<number>();
  /** By pid, the attempts to take a snapshot, and the blocks that were not zero at the last one. */
  readonly snapshots = new Map<number, { attempts: number; blocks: Blocks }>();
  readonly #pages: StubPages;
  readonly #children: ChildProcess[] = [];

  constructor(pages: StubPages) {
    this.#pages = pages;
  }

  start(spec: MachineSpec): Promise<MicroVm> {
    return point('start a VMM', 'call', async () => {
      await this.beforeStart(spec);
      const vm = await this.#spawn(spec, 'zeros');
      await using memory = await open(spec.memoryFile, 'wx');
      await memory.truncate(spec.memoryMiB * 2 ** 20);
      this.snapshots.set(vm.description.pid, { attempts: 0, blocks: new Map() });
      await memory.write('ram', 0);
      this.afterStart(vm);
      return vm;
    });
  }

  restore(spec: MachineSpec, source: RestoreSource): Promise<MicroVm> {
    return point('restore a VMM', 'call', async () => {
      if (source.memory.kind !== 'userfaultfd') throw new Error('no pager is named');
      if (!(await readFile(source.statePath, 'utf8')).startsWith('state')) {
        throw new TorporError('vmm_failed', 'The state is damaged.');
      }
      await this.#pages.fill(source.memory.socketPath, spec.memoryFile, spec.memoryMiB);
      const vm = await this.#spawn(spec, 'userfaultfd');
      this.stopped.add(vm.description.pid);
      const blocks = await readBlocks(spec.memoryFile);
      this.snapshots.set(vm.description.pid, { attempts: 0, blocks });
      this.afterStart(vm);
      return vm;
    });
  }

  async adopt(description: MachineDescription): Promise<MicroVm | undefined> {
    return isProcessAlive(description) ? new StubVm(this, description) : undefined;
  }

  living(): number[] {
    return this.#children
      .map((child) => child.pid ?? -1)
      .filter((pid) => identifyProcess(pid) !== undefined);
  }

  killAll(): void {
    for (const child of this.#children) child.kill('SIGKILL');
  }

  async #spawn(spec: MachineSpec, memoryOrigin: MemoryOrigin): Promise<StubVm> {
    // The control socket in the arguments lets the next agent find a VMM without a journal entry.
    const argv0 = `socket,id=control,path=${spec.runDirectory}/qmp.sock,server=on`;
    const child = spawn('sleep', ['600'], { stdio: 'ignore', argv0 });
    this.#children.push(child);
    await new Promise((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
    await writeFile(spec.console.path, 'Linux boots\r\ninit: no such device\r\n');
    const identity = identifyProcess(child.pid ?? -1);
    if (identity === undefined) throw new Error('the process no longer exists');
    return new StubVm(this, {
      driver: 'qemu',
      vmmVersion: '10.0.0',
      accelerator: 'tcg',
      ...identity,
      memoryOrigin,
      spec,
    });
  }
}

export class StubVm implements MicroVm {
  readonly description: MachineDescription;
  readonly exited: Promise<ExitReport>;
  detached = false;
  readonly #driver: StubDriver;
  #intended = false;

  constructor(driver: StubDriver, description: MachineDescription) {
    this.#driver = driver;
    this.description = description;
    this.exited = new Promise((resolve) => {
      const timer = setInterval(() => {
        if (isProcessAlive(description)) return;
        clearInterval(timer);
        resolve({
          reason: this.#intended ? 'The machine was killed.' : 'QEMU was terminated by SIGKILL.',
          consoleTail: ['Linux boots', 'init: no such device'],
        });
      }, 5);
      timer.unref();
    });
  }

  kill(): Promise<void> {
    return point('kill the VMM', 'call', async () => {
      this.#intended = true;
      await this.#driver.beforeKill(this);
      this.die();
      await this.exited;
    });
  }

  /** The VMM is killed from outside. */
  die(): void {
    signalProcess(this.description, 'SIGKILL');
  }

  stop(): Promise<void> {
    return this.kill();
  }

  readConsole(): Promise<Buffer> {
    return readFile(this.description.spec.console.path);
  }

  async detach(): Promise<void> {
    this.detached = true;
  }

  pause(): Promise<void> {
    return this.#ask('stop the vCPUs', async () => {
      this.#driver.stopped.add(this.description.pid);
    });
  }

  resume(): Promise<void> {
    return this.#ask('start the vCPUs', async () => {
      this.#driver.stopped.delete(this.description.pid);
    });
  }

  capture(base: DirtyBase, target: CaptureTarget): Promise<Capture> {
    return this.#driver.takesSnapshots
      ? this.#writeSnapshot(base, target)
      : this.#saveState(target.statePath);
  }

  #saveState(path: string): Promise<Capture> {
    const { pid, spec, memoryOrigin } = this.description;
    return this.#ask('save the state', async () => {
      await this.#driver.beforeSave(this);
      await writeFile(path, `state of ${pid}`, { flag: 'wx' });
      const holes = memoryOrigin === 'userfaultfd' ? 'unchanged' : 'zero';
      return { memoryPath: spec.memoryFile, holes, number: 0 };
    });
  }

  /** Writes a diff to the base if that was the last attempt, else all of RAM. */
  async #writeSnapshot(base: DirtyBase, target: CaptureTarget): Promise<Capture> {
    const { statePath, memoryPath } = target;
    const { pid, spec } = this.description;
    const result = await this.#ask('take a snapshot', async (): Promise<Capture> => {
      const before = this.#driver.snapshots.get(pid);
      if (before === undefined || !this.#driver.stopped.has(pid)) {
        throw new TorporError('invalid_state', 'The machine is not stopped.');
      }
      const isDiff = captureOf(base) === before.attempts;
      const blocks = await readBlocks(spec.memoryFile);
      const number = before.attempts + 1;
      // Even if this attempt fails: its changes are no longer known.
      this.#driver.snapshots.set(pid, { attempts: number, blocks });
      await this.#driver.beforeSave(this);
      await writeFile(statePath, `state of ${pid}`, { flag: 'wx' });
      const wanted = isDiff ? changedBlocks(before.blocks, blocks) : blocks;
      await writeBlocks(memoryPath, spec.memoryMiB, wanted);
      const holes = isDiff && base.kind === 'build' ? 'unchanged' : 'zero';
      return { memoryPath, holes, number };
    });
    try {
      return await point('be given the snapshot', 'call', async () => result);
    } catch (error) {
      for (const path of [statePath, memoryPath]) await rm(path, { force: true });
      throw error;
    }
  }

  #ask<T>(what: string, action: () => Promise<T>): Promise<T> {
    return point(what, 'call', async () => {
      if (!isProcessAlive(this.description)) {
        throw new TorporError('vmm_failed', 'The VMM does not respond.');
      }
      return await action();
    });
  }
}

/** Blocks of RAM by their index. */
type Blocks = ReadonlyMap<number, Buffer>;

const ZEROS = Buffer.alloc(BLOCK_SIZE);

/** The blocks of a sparse file that are not zero. */
async function readBlocks(path: string): Promise<Blocks> {
  const blocks = new Map<number, Buffer>();
  await using file = await open(path);
  for (const { offset, length } of dataExtents(file)) {
    const first = Math.floor(offset / BLOCK_SIZE);
    for (let block = first; block * BLOCK_SIZE < offset + length; block++) {
      const bytes = Buffer.alloc(BLOCK_SIZE);
      await file.read(bytes, 0, BLOCK_SIZE, block * BLOCK_SIZE);
      if (!bytes.equals(ZEROS)) blocks.set(block, bytes);
    }
  }
  return blocks;
}

function changedBlocks(before: Blocks, now: Blocks): Blocks {
  const changed = new Map<number, Buffer>();
  for (const block of new Set([...before.keys(), ...now.keys()])) {
    const bytes = now.get(block) ?? ZEROS;
    if (!bytes.equals(before.get(block) ?? ZEROS)) changed.set(block, bytes);
  }
  return changed;
}

/** Writes a sparse file: everything but the blocks is a hole. */
async function writeBlocks(path: string, mebibytes: number, blocks: Blocks): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(mebibytes * 2 ** 20);
  for (const [block, bytes] of blocks) {
    await file.write(bytes, 0, BLOCK_SIZE, block * BLOCK_SIZE);
  }
}

interface Served {
  readonly request: PageServiceRequest;
  onFailure: (reason: string) => void;
}

/** A pager that outlives agents, as the real one does. */
export class StubPages implements PageService {
  readonly #served = new Map<string, Served>();

  serve(request: PageServiceRequest, onFailure: (reason: string) => void): Promise<void> {
    return point('serve memory', 'call', async () => {
      this.#served.set(request.vm, { request, onFailure });
    });
  }

  adopt(vm: string, onFailure: (reason: string) => void): Promise<void> {
    return point('adopt memory', 'call', async () => {
      const served = this.#served.get(vm);
      if (served === undefined) {
        throw new TorporError('vmm_failed', 'The page server that held its memory exited.');
      }
      served.onFailure = onFailure;
    });
  }

  async describe(): Promise<undefined> {
    return undefined;
  }

  release(vm: string): Promise<void> {
    return point('release memory', 'call', async () => void this.#served.delete(vm));
  }

  /** The pager exits. */
  die(): void {
    const served = [...this.#served.values()];
    this.#served.clear();
    for (const { onFailure } of served) onFailure('The page server exited.');
  }

  /** Writes the memory that a VMM gets when it connects to this socket. */
  async fill(socketPath: string, memoryFile: string, memoryMiB: number): Promise<void> {
    // An earlier agent may have been killed before it released a machine with this socket.
    const served = [...this.#served.values()].findLast(
      (each) => each.request.socketPath === socketPath,
    );
    if (served === undefined) throw new TorporError('vmm_failed', 'No pager listens.');
    const { headerPath, diffPaths } = served.request;
    const { mapping } = parseMemoryHeader(await readFile(headerPath), { path: headerPath });
    await using memory = await open(memoryFile, 'wx');
    await memory.truncate(memoryMiB * 2 ** 20);
    for (let run = 0; run < mapping.runCount; run++) {
      const build = mapping.buildOf(run);
      if (build === ZERO_INDEX) continue;
      const path = diffPaths[mapping.builds[build] ?? ''];
      if (path === undefined) throw new TorporError('vmm_failed', 'A diff file is not named.');
      await using diff = await open(path);
      const bytes = Buffer.alloc((mapping.endOf(run) - mapping.startOf(run)) * BLOCK_SIZE);
      const { bytesRead } = await diff.read(
        bytes,
        0,
        bytes.length,
        mapping.storageOf(run) * BLOCK_SIZE,
      );
      if (bytesRead < bytes.length) throw new TorporError('vmm_failed', `${path} is torn.`);
      await memory.write(bytes, 0, bytes.length, mapping.startOf(run) * BLOCK_SIZE);
    }
  }
}
