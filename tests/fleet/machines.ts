/**
 * Three hosts and two control planes, each the real process in a network namespace of its own, on
 * Debian's PostgreSQL.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { instanceTag, readRecord, recordFileIn } from '@torpor/agent/testing';
import { ipBatch } from '@torpor/linux';
import { rest } from '@torpor/protocol';
import { ServerProcess } from '@torpor/testkit/cli';
import { openDataDirWithBoots, type Shape } from '@torpor/testkit/guests';
import { Client } from 'pg';
import { CACHE_DIR, leftovers } from '../agent/agent-under-test.ts';
import { RestClient } from '../support/rest-client.ts';
import type { Known } from './invariants.ts';
import { FleetNetwork } from './network.ts';
import { DATABASE_PORT, PostgresServer, ROLE } from './postgres.ts';

const API_PORT = 7070;
const AGENTS_PORT = 7071;

/** A machine of the fleet whose process can be killed and started again. */
abstract class Machine implements AsyncDisposable {
  readonly namespace: string;
  readonly address: string;
  readonly dataDir: string;
  protected server: ServerProcess | undefined;

  constructor(
    { namespace, address }: { readonly namespace: string; readonly address: string },
    dataDir: string,
  ) {
    this.namespace = namespace;
    this.address = address;
    this.dataDir = dataDir;
  }

  protected async run(args: readonly string[], env: NodeJS.ProcessEnv): Promise<ServerProcess> {
    this.server = await ServerProcess.start(args, {
      namespace: this.namespace,
      env: { ...env, TORPOR_DATA_DIR: this.dataDir },
    });
    return this.server;
  }

  /** The end of its log. */
  get log(): readonly string[] {
    return this.server?.log ?? [];
  }

  /** `kill -9`. */
  async kill(): Promise<void> {
    await this.server?.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server?.[Symbol.asyncDispose]();
  }
}

export class ControlPlaneMachine extends Machine {
  async start(env: NodeJS.ProcessEnv): Promise<void> {
    await this.run(['control-plane', '--host', this.address], {
      ...env,
      TORPOR_AGENT_URL: `https://${this.address}:${AGENTS_PORT}`,
    });
  }

  client(): Promise<RestClient> {
    return RestClient.open(`http://${this.address}:${API_PORT}`, this.dataDir);
  }
}

export class HostMachine extends Machine {
  id = '';

  /** Needs a token until it has joined. */
  async start(token?: rest.HostToken): Promise<void> {
    const joining = token === undefined ? [] : ['--join', token.join_url, token.token];
    const server = await this.run(['agent', ...joining], { TORPOR_CACHE_DIR: CACHE_DIR });
    this.id = (server.ready as { host_id: string }).host_id;
  }

  /** The sandboxes in its data directory, with their states. */
  async sandboxes(): Promise<Known> {
    const known = new Map<string, string>();
    for (const id of await readdir(join(this.dataDir, 'sandboxes'))) {
      const record = await readRecord(recordFileIn(this.dataDir, id));
      if (record !== undefined) known.set(id, record.state);
    }
    return known;
  }

  /** Ends what its agent could not, when a test has failed. */
  async removeLeftovers(): Promise<void> {
    const instance = instanceTag(await realpath(this.dataDir));
    for (const line of await leftovers(instance, this.dataDir)) {
      const [, kind, name = ''] = /^(\w+): (.*)$/.exec(line) ?? [];
      if (kind === 'processes') process.kill(Number.parseInt(name, 10), 'SIGKILL');
      if (kind === 'namespaces') await ipBatch([`netns del ${name}`]);
      if (kind === 'directories') await rm(name, { recursive: true, force: true });
    }
  }
}

export class FleetOfMachines implements AsyncDisposable {
  readonly database: Client;
  readonly network: FleetNetwork;
  readonly controlPlanes: readonly ControlPlaneMachine[];
  readonly hosts: readonly HostMachine[];
  readonly #env: NodeJS.ProcessEnv;
  readonly #resources: AsyncDisposable;

  private constructor(
    parts: Pick<FleetOfMachines, 'database' | 'network' | 'controlPlanes' | 'hosts'>,
    env: NodeJS.ProcessEnv,
    resources: AsyncDisposable,
  ) {
    this.database = parts.database;
    this.network = parts.network;
    this.controlPlanes = parts.controlPlanes;
    this.hosts = parts.hosts;
    this.#env = env;
    this.#resources = resources;
  }

  /** `shape`: of its sandboxes, whose boots other test files may have kept. */
  static async start(shape: Shape): Promise<FleetOfMachines> {
    await using resources = new AsyncDisposableStack();
    const network = resources.use(await FleetNetwork.open());
    const listen = { address: network.address, network: network.network };
    const postgres = resources.use(await PostgresServer.start({ listen }));
    const database = new Client(postgres.connection);
    await database.connect();
    resources.defer(() => database.end());
    const env = {
      DATABASE_URL: `postgresql://${ROLE}@${network.address}:${DATABASE_PORT}/postgres`,
      TORPOR_SECRET_KEY: randomBytes(32).toString('base64'),
      TORPOR_WEBHOOK_NETWORKS: network.network,
    };
    const controlPlanes: ControlPlaneMachine[] = [];
    for (const index of [1, 2]) {
      const dataDir = await mkdtemp(join(tmpdir(), 'torpor-fleet-'));
      resources.defer(() => rm(dataDir, { recursive: true, force: true }));
      const machine = await network.addMachine(`cp-${index}`, 10 + index);
      controlPlanes.push(resources.use(new ControlPlaneMachine(machine, dataDir)));
    }
    const hosts: HostMachine[] = [];
    for (const index of [1, 2, 3]) {
      const { path } = resources.use(await openDataDirWithBoots(CACHE_DIR, shape));
      const machine = await network.addMachine(`host-${index}`, 20 + index);
      const host = new HostMachine(machine, path);
      resources.defer(() => host.removeLeftovers());
      hosts.push(resources.use(host));
    }
    const parts = { database, network, controlPlanes, hosts };
    for (const controlPlane of controlPlanes) await controlPlane.start(env);
    await joinHosts(controlPlanes, hosts);
    return new FleetOfMachines(parts, env, resources.move());
  }

  startControlPlane(controlPlane: ControlPlaneMachine): Promise<void> {
    return controlPlane.start(this.#env);
  }

  /** What each host has. */
  async known(): Promise<Map<string, Known>> {
    const entries = this.hosts.map(async (host) => [host.id, await host.sandboxes()] as const);
    return new Map(await Promise.all(entries));
  }

  /** The log of every machine, for a test that has failed. */
  logs(): string {
    const machines = [...this.controlPlanes, ...this.hosts];
    return machines.map(({ namespace, log }) => `${namespace}:\n${log.join('\n')}`).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources[Symbol.asyncDispose]();
  }
}

async function joinHosts(
  controlPlanes: readonly ControlPlaneMachine[],
  hosts: readonly HostMachine[],
): Promise<void> {
  const clients = await Promise.all(controlPlanes.map((each) => each.client()));
  await Promise.all(
    hosts.map(async (host, index) => {
      const client = clients[index % clients.length] as RestClient;
      const { body } = await client.send('POST', '/v1/hosts', { name: `host-${index + 1}` });
      await host.start(rest.createdHostSchema.parse(body));
    }),
  );
}
