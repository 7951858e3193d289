import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import {
  createUpperDisk,
  ensureGuestArtifacts,
  type GuestArtifacts,
  ImageStore,
  kernelArguments,
} from '@torpor/images';
import { runCommand, runInNamespace } from '@torpor/linux';
import { GUEST, GUEST_DRIVES } from '@torpor/protocol';
import { ENVD_ENTRY } from '@torpor/testkit/guests';
import { findQemu, type MachineSpec, type MicroVm, QemuDriver } from '@torpor/vmm';

const CACHE_DIR = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';

/** Far above any successful boot, even under emulation on a busy machine. */
const BOOT_TIMEOUT_MS = 200_000;
const POLL_INTERVAL_MS = 200;

/** A machine with the project's artefacts in its own network namespace; disposing of it removes everything. */
export class GuestUnderTest implements AsyncDisposable {
  readonly vm: MicroVm;
  readonly artifacts: GuestArtifacts;
  readonly #namespace: string;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    vm: MicroVm,
    artifacts: GuestArtifacts,
    namespace: string,
    stack: AsyncDisposableStack,
  ) {
    this.vm = vm;
    this.artifacts = artifacts;
    this.#namespace = namespace;
    this.#stack = stack;
  }

  /** Boots the image `base`. `change` may break the machine's spec on purpose. */
  static async boot(
    change: (spec: MachineSpec) => MachineSpec = (spec) => spec,
  ): Promise<GuestUnderTest> {
    await using stack = new AsyncDisposableStack();
    const artifacts = await ensureGuestArtifacts({ cacheDir: CACHE_DIR, envdEntry: ENVD_ENTRY });
    const image = await new ImageStore({ cacheDir: CACHE_DIR }).build('base');
    const directory = await mkdtemp('/tmp/torpor-images-');
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    const memory = await mkdtemp('/dev/shm/torpor-images-');
    stack.defer(() => rm(memory, { recursive: true, force: true }));
    const namespace = directory.slice('/tmp/'.length);
    await runCommand('ip', ['netns', 'add', namespace]);
    stack.defer(async () => {
      await runCommand('ip', ['netns', 'delete', namespace]);
    });
    const gateway = `${GUEST.gateway}/${GUEST.prefixLength}`;
    for (const args of [
      ['tuntap', 'add', 'tap0', 'mode', 'tap'],
      ['addr', 'add', gateway, 'dev', 'tap0'],
      ['link', 'set', 'tap0', 'up'],
    ]) {
      await runCommand('ip', ['-n', namespace, ...args]);
    }
    const upper = join(directory, 'upper.ext4');
    await createUpperDisk(upper, 2048);
    const runDirectory = join(directory, 'run');
    await mkdir(runDirectory, { mode: 0o700 });
    const driver = new QemuDriver({
      qemu: await findQemu(process.env.TORPOR_QEMU),
      accelerator: 'tcg',
    });
    const vm = await driver.start(
      change({
        id: 'boot-test',
        vcpus: 1,
        memoryMiB: 512,
        kernelPath: artifacts.kernel.qemuPath,
        initramfsPath: artifacts.initramfsPath,
        kernelArguments: kernelArguments(),
        drives: [
          { id: GUEST_DRIVES.base.id, path: image.path, readOnly: true },
          { id: GUEST_DRIVES.agent.id, path: artifacts.agentDrivePath, readOnly: true },
          { id: GUEST_DRIVES.upper.id, path: upper, readOnly: false },
        ],
        network: { namespace, tapDevice: 'tap0', macAddress: GUEST.macAddress },
        runDirectory,
        memoryFile: join(memory, 'ram'),
        console: { path: join(runDirectory, 'console.log'), maxBytes: 64 * 1024 },
      }),
    );
    stack.defer(() => vm.kill());
    return new GuestUnderTest(vm, artifacts, namespace, stack.move());
  }

  /** Resolves when envd is healthy; throws with the console if the machine exits or takes too long. */
  async healthy(): Promise<void> {
    const deadline = Date.now() + BOOT_TIMEOUT_MS;
    let exited = false;
    void this.vm.exited.then(() => {
      exited = true;
    });
    while ((await this.status('/health')) !== 204) {
      if (exited || Date.now() > deadline) {
        throw new Error(`The guest did not become healthy:\n${await this.console()}`);
      }
      await delay(POLL_INTERVAL_MS);
    }
  }

  /** Status of envd's response to a GET, or 0 if there was none. */
  async status(path: string): Promise<number> {
    const output = await this.curl([
      ...['-o', '/dev/null', '-w', '%{http_code}', this.url(path)],
    ]).catch(() => '0');
    return Number(output);
  }

  url(path: string): string {
    return `http://${GUEST.address}:${GUEST.envdPort}${path}`;
  }

  /** Runs curl in the machine's namespace. */
  curl(args: readonly string[]): Promise<string> {
    return runInNamespace(this.#namespace, 'curl', ['-s', '-m', '30', ...args]);
  }

  async console(): Promise<string> {
    return (await this.vm.readConsole(64 * 1024)).toString();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}
