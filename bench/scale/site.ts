import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { rest } from '@torpor/protocol';
import { Program } from '../support/program.ts';
import type { HostSandboxes, JoinInput, JoinToken } from './agents.ts';
import type { ControlPlaneInput, ProcessUse, StartedControlPlane } from './control-plane.ts';
import { StatisticsDatabase } from './statistics-database.ts';

const CONTROL_PLANE = fileURLToPath(new URL('./control-plane.ts', import.meta.url));
const AGENTS = fileURLToPath(new URL('./agents.ts', import.meta.url));
const POLL_MS = 10;

export interface SiteSize {
  readonly hosts: number;
  readonly sandboxesPerHost: number;
  readonly heartbeatMs: number;
}

/** A control plane while it runs. */
export class RunningControlPlane implements AsyncDisposable {
  readonly #program: Program;
  readonly #started: StartedControlPlane;

  constructor(program: Program, started: StartedControlPlane) {
    this.#program = program;
    this.#started = started;
  }

  get agentPort(): number {
    return this.#started.agentPort;
  }

  /** A request with the key of the first team. Throws for an error. */
  async request(method: string, path: string, body?: object): Promise<string> {
    const response = await fetch(`${this.#started.url}${path}`, {
      method,
      headers: { 'x-api-key': this.#started.apiKey },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text;
  }

  async json<T>(method: string, path: string, body?: object): Promise<T> {
    return JSON.parse(await this.request(method, path, body)) as T;
  }

  use(): Promise<ProcessUse> {
    return this.#program.ask('use');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#program[Symbol.asyncDispose]();
  }
}

/** What a site consists of. */
export interface SiteParts {
  readonly database: StatisticsDatabase;
  readonly agents: Program;
  /** The first team. */
  readonly teamId: string;
  readonly hostIds: readonly string[];
}

/** A database, hosts that have joined, and, while it is started, a control plane: each in a process of its own. */
export class Site implements AsyncDisposable {
  readonly parts: SiteParts;
  readonly #agentPort: number;
  readonly #stack: AsyncDisposableStack;

  private constructor(parts: SiteParts, agentPort: number, stack: AsyncDisposableStack) {
    this.parts = parts;
    this.#agentPort = agentPort;
    this.#stack = stack;
  }

  /** Lets the hosts have the sandboxes of the rows that `seed` writes. */
  static async open(
    { hosts, heartbeatMs }: SiteSize,
    seed: (parts: SiteParts) => Promise<void>,
  ): Promise<Site> {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await StatisticsDatabase.start());
    const agents = stack.use(Program.start(AGENTS));
    await using controlPlane = await startControlPlane(database, 0);
    const { agentPort } = controlPlane;
    const tokens: JoinToken[] = [];
    for (let index = 0; index < hosts; index++) {
      const name = `host-${index}`;
      tokens.push(await controlPlane.json<rest.CreatedHost>('POST', '/v1/hosts', { name }));
    }
    const input: JoinInput = { tokens, heartbeatMs };
    const hostIds = await agents.ask<string[]>('join', input);
    const teamId = await limitTeam(controlPlane);
    await controlPlane[Symbol.asyncDispose]();
    const parts = { database, agents, teamId, hostIds };
    await seed(parts);
    await fillHosts(parts);
    return new Site(parts, agentPort, stack.move());
  }

  async start(): Promise<RunningControlPlane> {
    return startControlPlane(this.parts.database, this.#agentPort);
  }

  /** Waits until a count of rows is `expected`; `from` is a table and a condition. */
  async untilCount(from: string, expected: number): Promise<void> {
    while ((await this.parts.database.count(from)) !== expected) await delay(POLL_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** Lets what the first team uses be counted by each create, as that of other teams is. Returns its id. */
async function limitTeam(controlPlane: RunningControlPlane): Promise<string> {
  const { team_id: teamId, items } = await controlPlane.json<rest.QuotaList>('GET', '/v1/quotas');
  const limits = Object.fromEntries(items.map(({ name }) => [name, 1_000_000_000]));
  await controlPlane.json('PATCH', `/v1/teams/${teamId}/quotas`, limits);
  return teamId;
}

async function fillHosts({ database, agents }: SiteParts): Promise<void> {
  const { rows } = await database.client.query(
    `select host_id as "hostId", team_id as "teamId",
       json_agg(json_build_object('id', id, 'status', state)) as sandboxes
     from sandboxes where state = 'running' group by host_id, team_id`,
  );
  await agents.ask('add', rows as HostSandboxes[]);
}

async function startControlPlane(
  { dataDir, url: databaseUrl }: StatisticsDatabase,
  agentPort: number,
): Promise<RunningControlPlane> {
  const program = Program.start(CONTROL_PLANE);
  const input: ControlPlaneInput = { dataDir, databaseUrl, agentPort };
  return new RunningControlPlane(program, await program.ask('start', input));
}
