import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type FirecrackerInstallation, findFirecracker } from '@torpor/vmm';
import type { FakeBehaviour } from './fake-firecracker.ts';

/** A directory with the fakes as executable files, which any user may run. */
export class FakeInstallation implements AsyncDisposable {
  readonly directory: string;
  readonly #transcript: string;

  private constructor(directory: string) {
    this.directory = directory;
    this.#transcript = join(directory, 'transcript');
  }

  static async create(): Promise<FakeInstallation> {
    const directory = await mkdtemp('/tmp/torpor-fake-fc-');
    await chmod(directory, 0o755);
    return new FakeInstallation(directory);
  }

  /** Installs Firecracker, and its jailer if requested, and detects them as in production. */
  async install(
    behaviour: FakeBehaviour = {},
    options: { readonly jailer?: boolean } = {},
  ): Promise<FirecrackerInstallation> {
    await writeFile(this.#transcript, '');
    await chmod(this.#transcript, 0o666);
    const told = { ...behaviour, transcript: this.#transcript };
    const firecracker = await this.#program('firecracker', 'fake-firecracker.ts', told);
    await rm(join(this.directory, 'jailer'), { force: true });
    if (options.jailer === true) await this.#program('jailer', 'fake-jailer.ts', behaviour);
    return await findFirecracker({ firecracker });
  }

  /** The calls of all machines since the last {@link install} that changed something. */
  async calls(): Promise<{ readonly call: string; readonly body: Record<string, unknown> }[]> {
    const lines = (await readFile(this.#transcript, 'utf8')).split('\n');
    return lines.filter((line) => line !== '').map((line) => JSON.parse(line));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
  }

  /** A script that execs the fake, so that the pid stays the same. */
  async #program(name: string, source: string, behaviour: FakeBehaviour): Promise<string> {
    const path = join(this.directory, name);
    const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
    const script = [
      '#!/bin/sh',
      `export FAKE_FIRECRACKER=${quoted(JSON.stringify(behaviour))}`,
      `exec ${quoted(process.execPath)} ${quoted(fileURLToPath(new URL(source, import.meta.url)))} "$@"`,
    ].join('\n');
    await writeFile(path, `${script}\n`);
    await chmod(path, 0o755);
    return path;
  }
}
