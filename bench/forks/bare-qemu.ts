import { env } from 'node:process';
import { tscKhz } from '@torpor/linux';
import { findQemu, type MachineSpec } from '@torpor/vmm';
import { completion, QmpClient, qemuArguments, runFiles, VmmProcess } from '@torpor/vmm/testing';

const CONNECT_TIMEOUT_MS = 120_000;

/** QEMU alone, used as in its manual: `-incoming`, and a migration stream in a file. */
export class BareQemu implements AsyncDisposable {
  readonly #process: VmmProcess;
  readonly #control: QmpClient;

  private constructor(process: VmmProcess, control: QmpClient) {
    this.#process = process;
    this.#control = control;
  }

  /**
   * Starts QEMU, which waits for a machine. `file`: its RAM is the existing memory file,
   * shared. `anonymous`: its RAM is private, which is the default.
   */
  static async waiting(spec: MachineSpec, memory: 'file' | 'anonymous'): Promise<BareQemu> {
    const qemu = await findQemu(env.TORPOR_QEMU);
    const files = runFiles(spec.runDirectory);
    const args = qemuArguments({
      spec,
      qemu,
      accelerator: 'tcg',
      memory: { kind: 'shared', path: spec.memoryFile },
      incoming: true,
      tscKhz: await tscKhz(),
    });
    const process = await VmmProcess.spawn({
      name: 'QEMU',
      program: qemu.path,
      args: memory === 'file' ? args : args.map(withoutMemoryFile),
      ...(spec.network === undefined ? {} : { namespace: spec.network.namespace }),
      outputPath: files.output,
    });
    try {
      return new BareQemu(
        process,
        await QmpClient.connect(files.control, { timeoutMs: CONNECT_TIMEOUT_MS }),
      );
    } catch (error) {
      await process.kill();
      throw error;
    }
  }

  get pid(): number {
    return this.#process.identity.pid;
  }

  /** Loads a machine from a file, stopped. `withoutMemory`: RAM is in the memory file. */
  async load(path: string, options: { readonly withoutMemory: boolean }): Promise<void> {
    await this.#setIgnoreShared(options.withoutMemory);
    await this.#control.execute('migrate-incoming', { uri: `file:${path}` });
    await completion(this.#control, 'The bare QEMU could not load its machine');
  }

  /** Writes the whole machine, RAM included, to a file. */
  async save(path: string): Promise<void> {
    await this.#setIgnoreShared(false);
    await this.#control.execute('migrate-set-parameters', { 'max-bandwidth': 10 ** 12 });
    await this.#control.execute('migrate', { uri: `file:${path}` });
    await completion(this.#control, 'The machine could not be written');
  }

  async run(): Promise<void> {
    await this.#control.execute('cont');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#control.close();
    await this.#process.kill();
    await this.#process.exited;
  }

  async #setIgnoreShared(state: boolean): Promise<void> {
    const capabilities = [{ capability: 'x-ignore-shared', state }];
    await this.#control.execute('migrate-set-capabilities', { capabilities });
  }
}

/** The argument, with private RAM instead of the memory file. */
function withoutMemoryFile(argument: string): string {
  if (!argument.includes('"memory-backend-file"')) return argument;
  const { id, size, dump, merge } = JSON.parse(argument);
  return JSON.stringify({ 'qom-type': 'memory-backend-ram', id, size, dump, merge });
}
