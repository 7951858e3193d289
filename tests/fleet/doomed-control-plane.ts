/**
 * A control plane as a process of its own, which is killed (SIGKILL) at a given step of an
 * operation. A step is a statement that it sends to the database, or a call to an agent. It is
 * killed before the statement reaches the database, which is then as after the one before it.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ServerProcess } from '@torpor/testkit/cli';
import { z } from 'zod';
import { DATABASE_PORT, ROLE } from './postgres.ts';

/** A step, the `occurrence`th with this name since the control plane was armed. */
export interface CrashPoint {
  readonly name: string;
  readonly occurrence: number;
}

export interface DoomedOptions {
  /** The directory of the database's socket. */
  readonly database: string;
  readonly env: NodeJS.ProcessEnv;
}

const readySchema = z.looseObject({ api_url: z.url() });

export class DoomedControlPlane implements AsyncDisposable {
  readonly url: string;
  /** The steps since it was armed. */
  readonly steps: string[] = [];
  /** Resolves when it has been killed at its point. */
  readonly killed: Promise<void>;
  isDead = false;
  readonly #server: ServerProcess;
  readonly #statements: Statements;
  readonly #kill = Promise.withResolvers<void>();
  readonly #resources: AsyncDisposableStack;
  #point: CrashPoint | undefined;
  #isArmed = false;

  private constructor(
    server: ServerProcess,
    statements: Statements,
    resources: AsyncDisposableStack,
  ) {
    this.url = readySchema.parse(server.ready).api_url;
    this.killed = this.#kill.promise;
    this.#server = server;
    this.#statements = statements;
    this.#resources = resources;
    statements.onStatement = (name) => this.reach(name);
  }

  static async start({ database, env }: DoomedOptions): Promise<DoomedControlPlane> {
    await using resources = new AsyncDisposableStack();
    const dataDir = await mkdtemp(join(tmpdir(), 'torpor-doomed-'));
    resources.defer(() => rm(dataDir, { recursive: true, force: true }));
    const statements = resources.use(await Statements.open(database, dataDir));
    const server = await ServerProcess.start(
      ['control-plane', '--port', '0', '--agent-port', '0'],
      {
        env: {
          ...env,
          TORPOR_DATA_DIR: dataDir,
          DATABASE_URL: `postgresql://${ROLE}@/postgres?host=${encodeURIComponent(dataDir)}&port=${DATABASE_PORT}`,
        },
      },
    );
    resources.defer(() => server.kill());
    return new DoomedControlPlane(server, statements, resources.move());
  }

  /** Its leases are those of holders that begin like this. */
  get holderPrefix(): string {
    return `${this.#server.pid}-`;
  }

  /** From now on steps count; it dies at the point, if one is given. */
  arm(point?: CrashPoint): void {
    this.#isArmed = true;
    this.#point = point;
  }

  /** To be called at each of its steps. Kills it if this is its point, and returns whether it did. */
  reach(name: string): boolean {
    if (this.isDead || !this.#isArmed) return false;
    this.steps.push(name);
    if (this.#point?.name !== name) return false;
    const occurrences = this.steps.filter((step) => step === name).length;
    if (occurrences === this.#point.occurrence) this.kill();
    return this.isDead;
  }

  kill(): void {
    if (this.isDead) return;
    this.isDead = true;
    this.#statements.close();
    void this.#server.kill().then(this.#kill.resolve, this.#kill.reject);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.killed;
    await this.#resources.disposeAsync();
  }
}

/** A socket that passes on to that of the database, and names each statement before it does. */
class Statements implements AsyncDisposable {
  /** Returns whether the client has died. */
  onStatement: (name: string) => boolean = () => false;
  readonly #sockets = new Set<Socket>();
  #release: () => void = () => undefined;

  static async open(database: string, directory: string): Promise<Statements> {
    const statements = new Statements();
    const name = `.s.PGSQL.${DATABASE_PORT}`;
    const server = createServer((client) => statements.#join(client, join(database, name)));
    await new Promise<void>((resolve) => server.listen(join(directory, name), resolve));
    statements.#release = () => void server.close();
    return statements;
  }

  /** The server still executes what it was sent; an open transaction is rolled back. */
  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #join(client: Socket, path: string): void {
    const server = connect(path);
    this.#sockets.add(client);
    for (const socket of [client, server]) socket.on('error', () => undefined);
    server.pipe(client);
    client.on('close', () => server.end());
    client.on('data', (chunk: Buffer) => {
      const name = statementName(chunk);
      if (name !== undefined && this.onStatement(name)) return;
      server.write(chunk);
    });
  }
}

const QUERY = 'Q'.charCodeAt(0);
const PARSE = 'P'.charCodeAt(0);
const HEADER_BYTES = 5;

/**
 * The verb and the first table of the statement that a message begins with; undefined if it
 * has none. https://www.postgresql.org/docs/15/protocol-message-formats.html
 */
function statementName(message: Buffer): string | undefined {
  const [type] = message;
  if (type !== QUERY && type !== PARSE) return undefined;
  const [first = '', second = ''] = message.toString('latin1', HEADER_BYTES).split('\0', 2);
  const sql = (type === QUERY ? first : second).trim().toLowerCase();
  const verb = /^[a-z]+/.exec(sql)?.[0] ?? '';
  const table = /\b(?:from|into|update)\s+"?([a-z_]+)/.exec(sql)?.[1];
  return table === undefined ? verb : `${verb} ${table}`;
}
