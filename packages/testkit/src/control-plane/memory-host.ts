import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { JoinedHost, type JoinedHostOptions } from '@torpor/agent/enrolment';
import type { rest } from '@torpor/protocol';
import type { TlsCredentials } from '@torpor/protocol/tls';
import { pino } from 'pino';
import { MemoryAgent } from './memory-agent.ts';

/** A machine with a memory agent, which joins a control plane over TLS. */
export class MemoryHost implements AsyncDisposable {
  readonly agent: MemoryAgent;
  readonly dataDir: string;
  /** How often the control plane has told it that it was deleted. */
  deletions = 0;
  #joined: JoinedHost | undefined;

  private constructor(agent: MemoryAgent, dataDir: string) {
    this.agent = agent;
    this.dataDir = dataDir;
  }

  static async make(): Promise<MemoryHost> {
    const agent = await MemoryAgent.start();
    return new MemoryHost(agent, await mkdtemp(join(tmpdir(), 'torpor-host-')));
  }

  /** Starts its agent; needs a token until it has joined. */
  async start(
    token?: Pick<rest.HostToken, 'join_url'> & { readonly token?: string },
    options: Partial<JoinedHostOptions> = {},
  ): Promise<JoinedHost> {
    this.#joined = await JoinedHost.open({
      dataDir: this.dataDir,
      join: token && { url: token.join_url, ...(token.token && { token: token.token }) },
      routes: (router) => this.agent.routes(router),
      describe: async () => this.agent.describe(),
      host: '127.0.0.1',
      port: 0,
      logger: pino({ level: 'silent' }),
      onDeleted: () => void this.deletions++,
      heartbeatMs: 100,
      ...options,
    });
    return this.#joined;
  }

  /** Stops its agent. What runs on it keeps running. */
  async stop(): Promise<void> {
    await this.#joined?.[Symbol.asyncDispose]();
    this.#joined = undefined;
  }

  get id(): string {
    if (this.#joined === undefined) throw new Error('The host is not started.');
    return this.#joined.hostId;
  }

  get address(): string {
    return `127.0.0.1:${this.#joined?.port}`;
  }

  /** Its certificate and key, as they are in its data directory. */
  async credentials(): Promise<TlsCredentials & { readonly authority: string }> {
    const text = await readFile(join(this.dataDir, 'enrolment.json'), 'utf8');
    const { certificate, private_key: privateKey, authority } = JSON.parse(text);
    return { certificate, privateKey, authority };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.agent[Symbol.asyncDispose]();
    await rm(this.dataDir, { recursive: true, force: true });
  }
}
