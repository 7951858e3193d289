import { randomUUID } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { FakeInstallation } from '@torpor/testkit/firecracker';
import {
  committedAs,
  type DirtyBase,
  FirecrackerDriver,
  type MachineSpec,
  type MicroVm,
} from '@torpor/vmm';
import { onTestFinished } from 'vitest';
import { MachineBench } from '../machines.ts';
import { GUEST_MODES } from '../test-guest.ts';

/** The user that the fake VMMs run as. */
export const USER = { uid: 61_234, gid: 61_234 };
export const MEMORY_MIB = 64;
export const UNKNOWN: DirtyBase = { kind: 'unknown' };

/** Machines in the fake Firecracker, and what they leave. */
export class FakeMachines implements AsyncDisposable {
  readonly #fakes: FakeInstallation;
  readonly #bench: MachineBench;

  private constructor(fakes: FakeInstallation, bench: MachineBench) {
    this.#fakes = fakes;
    this.#bench = bench;
  }

  static async create(): Promise<FakeMachines> {
    return new FakeMachines(await FakeInstallation.create(), await MachineBench.create());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#bench[Symbol.asyncDispose]();
    await this.#fakes[Symbol.asyncDispose]();
  }

  get directory(): string {
    return this.#bench.directory;
  }

  /** The calls to all fakes, in order. */
  calls() {
    return this.#fakes.calls();
  }

  /** Kills the machine after the test. */
  track(vm: MicroVm): MicroVm {
    return this.#bench.track(vm);
  }

  async driver(...options: Parameters<FakeInstallation['install']>): Promise<FirecrackerDriver> {
    return new FirecrackerDriver({ firecracker: await this.#fakes.install(...options) });
  }

  async spec(change: Partial<MachineSpec> = {}): Promise<MachineSpec> {
    const kernelPath = join(this.directory, 'kernel');
    await writeFile(kernelPath, 'the fake reads no kernel');
    const guest = { kernelPath, initramfsPath: kernelPath };
    const shape = { memoryMiB: MEMORY_MIB, user: USER, ...change };
    return this.#bench.spec(guest, GUEST_MODES.count, shape);
  }

  /** Everything that a failed start might leave in the run directory, except its logs and the drives. */
  async remains(spec: MachineSpec): Promise<string[]> {
    const expected = ['base.img', 'upper.img', 'console.log', 'firecracker.err', 'firecracker.log'];
    const files = (await readdir(spec.runDirectory)).filter((name) => !expected.includes(name));
    return [...files, ...(await this.#bench.leftovers(spec))];
  }

  snapshotPaths(name: string) {
    const statePath = join(this.directory, `${name}.state`);
    return { statePath, memoryPath: join(this.directory, `${name}.memory`) };
  }

  /** Saves a running machine with all of its memory. */
  async save(vm: MicroVm, name = 'saved') {
    await vm.pause();
    const paths = this.snapshotPaths(name);
    await vm.capture(UNKNOWN, paths);
    return { ...paths, memory: { kind: 'file', path: paths.memoryPath } as const };
  }
}

/** A network namespace with a tap device, which is removed after the test. */
export async function networkOf(tapDevice: string) {
  const namespace = `torpor-vmm-${randomUUID().slice(0, 8)}`;
  await runCommand('ip', ['netns', 'add', namespace]);
  onTestFinished(async () => {
    await runCommand('ip', ['netns', 'delete', namespace]);
  });
  await runCommand('ip', ['-n', namespace, 'tuntap', 'add', tapDevice, 'mode', 'tap']);
  return { namespace, tapDevice, macAddress: '02:fc:00:00:00:05' };
}

/** The base of a machine whose capture of this number became a build. */
export function buildOfCapture(number: number): DirtyBase {
  return committedAs('build', { number });
}
