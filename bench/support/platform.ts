import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GuestClient, type GuestEndpoint, GuestSecrets } from '@torpor/agent/testing';
import { GUEST } from '@torpor/protocol';
import { type CreateSandboxOptions, type Sandbox, Torpor } from '@torpor/sdk';
import { TorporProcess, temporaryDataDir } from '@torpor/testkit/cli';
import { z } from 'zod';

export type OpenDataDir = () => Promise<AsyncDisposable & { readonly path: string }>;

const DEFAULT_MEMORY_MIB = 512;

/** A separate `torpor up` for a benchmark, with a temporary data directory. */
export class Platform implements AsyncDisposable {
  readonly torpor: Torpor;
  readonly dataDir: string;
  readonly pid: number;
  readonly #stack: AsyncDisposableStack;
  #coldBoots = 0;

  private constructor(torpor: Torpor, process: TorporProcess, stack: AsyncDisposableStack) {
    this.torpor = torpor;
    this.dataDir = process.dataDir;
    this.pid = process.pid;
    this.#stack = stack;
  }

  static async start(openDataDir: OpenDataDir = temporaryDataDir): Promise<Platform> {
    await using stack = new AsyncDisposableStack();
    const directory = stack.use(await openDataDir());
    const process = stack.use(await TorporProcess.start(directory.path));
    const credentials = z
      .looseObject({ api_key: z.string() })
      .parse(JSON.parse(await readFile(join(process.dataDir, 'credentials.json'), 'utf8')));
    const torpor = new Torpor({ apiUrl: process.apiUrl, apiKey: credentials.api_key });
    stack.defer(async () => {
      for await (const sandbox of torpor.sandboxes.list()) await sandbox.destroy();
      await torpor.close();
    });
    return new Platform(torpor, process, stack.move());
  }

  /** Creates a sandbox, which is destroyed with the platform at the latest. */
  create(options: CreateSandboxOptions = {}): Promise<Sandbox> {
    return this.torpor.sandboxes.create(options);
  }

  /**
   * Creates a sandbox that boots: only the first of its shape does, later ones are restored from
   * its kept boot. So each has a little more RAM than the one before.
   */
  createCold(): Promise<Sandbox> {
    return this.create({ memoryMiB: DEFAULT_MEMORY_MIB + ++this.#coldBoots });
  }

  /** A direct connection to a sandbox's envd, like the host agent's. */
  async envd(sandbox: Sandbox): Promise<GuestClient> {
    return new GuestClient(await this.envdEndpoint(sandbox));
  }

  /** The address of a sandbox's envd, and its token. */
  async envdEndpoint(sandbox: Sandbox): Promise<GuestEndpoint> {
    const key = await readFile(join(this.dataDir, 'keys', 'guest.key'));
    return {
      sandboxId: sandbox.id,
      baseUrl: this.guestUrl(sandbox, GUEST.envdPort),
      accessToken: new GuestSecrets(key).accessToken(sandbox.id),
    };
  }

  /** The URL at which root on this machine reaches a port of the guest. */
  guestUrl(sandbox: Sandbox, port: number): string {
    return `http://${sandbox.info.host_ip}:${port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}
