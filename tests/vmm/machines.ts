import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isProcessAlive } from '@torpor/linux';
import type { MachineSpec, MicroVm } from '@torpor/vmm';
import { BASE_TEXT, type TestGuest } from './test-guest.ts';

/** The directory for guest memory of the tests: tmpfs, as in production. */
const MEMORY_ROOT = '/dev/shm';
const BOOT_TIMEOUT_MS = 120_000;

/** The directories of a machine, one of them on tmpfs; removed with everything in them. */
export class MachineBench implements AsyncDisposable {
  readonly directory: string;
  readonly #memoryDirectory: string;
  readonly #machines = new Set<MicroVm>();
  #count = 0;

  private constructor(directory: string, memoryDirectory: string) {
    this.directory = directory;
    this.#memoryDirectory = memoryDirectory;
  }

  static async create(): Promise<MachineBench> {
    const directory = await mkdtemp('/tmp/torpor-vmm-');
    return new MachineBench(directory, await mkdtemp(`${MEMORY_ROOT}/torpor-vmm-`));
  }

  /** A machine with a read-only and a writable drive, not started. */
  async spec(
    guest: TestGuest,
    mode: string,
    change: Partial<MachineSpec> = {},
  ): Promise<MachineSpec> {
    const id = `test-${++this.#count}`;
    const runDirectory = join(this.directory, id);
    await mkdir(runDirectory, { mode: 0o700 });
    const base = join(runDirectory, 'base.img');
    const upper = join(runDirectory, 'upper.img');
    await writeFile(base, BASE_TEXT);
    await truncate(base, 1024 * 1024);
    await writeFile(upper, '');
    await truncate(upper, 4 * 1024 * 1024);
    return {
      id,
      vcpus: 1,
      memoryMiB: 192,
      ...guest,
      kernelArguments: ['quiet', mode],
      drives: [
        { id: 'base', path: base, readOnly: true },
        { id: 'upper', path: upper, readOnly: false },
      ],
      runDirectory,
      memoryFile: join(this.#memoryDirectory, id),
      console: { path: join(runDirectory, 'console.log'), maxBytes: 64 * 1024 },
      ...change,
    };
  }

  /** Kills the machine after the test, also if the test fails. */
  track(vm: MicroVm): MicroVm {
    this.#machines.add(vm);
    return vm;
  }

  /** The leftovers of a machine outside its own directory: memory files and processes that name it. */
  async leftovers(spec: MachineSpec): Promise<string[]> {
    const memory = (await readdir(this.#memoryDirectory)).filter((name) => name === spec.id);
    const sockets = (await readdir(spec.runDirectory)).filter((name) => name.endsWith('.sock'));
    return [...memory, ...sockets, ...(await processesNaming(spec.runDirectory))];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const vm of this.#machines) await vm.kill();
    await rm(this.directory, { recursive: true, force: true });
    await rm(this.#memoryDirectory, { recursive: true, force: true });
  }
}

/** Waits until the machine has printed the text; fails with what it printed instead. */
export async function printed(vm: MicroVm, expected: string | RegExp): Promise<void> {
  const deadline = performance.now() + BOOT_TIMEOUT_MS;
  for (;;) {
    const text = (await vm.readConsole(64 * 1024)).toString();
    if (typeof expected === 'string' ? text.includes(expected) : expected.test(text)) return;
    if (!isProcessAlive(vm.description)) {
      throw new Error(
        `the machine exited before it printed ${expected}: ${(await vm.exited).reason}`,
      );
    }
    if (performance.now() > deadline) throw new Error(`not printed: ${expected}; but:\n${text}`);
    await sleep(50);
  }
}

/** The last number that the guest has counted to. */
export async function counted(vm: MicroVm): Promise<number> {
  const text = (await vm.readConsole(64 * 1024)).toString();
  return Number([...text.matchAll(/guest: count (\d+)\r/g)].at(-1)?.[1] ?? 0);
}

async function processesNaming(path: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (commandLine.includes(path)) found.push(`${pid}: ${commandLine.replaceAll('\0', ' ')}`);
  }
  return found;
}
