import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ControlPlane, type ControlPlaneOptions } from '@torpor/control-plane';
import type { rest } from '@torpor/protocol';
import { type Logger, pino } from 'pino';
import { MemoryAgent } from './memory-agent.ts';

/** A control plane on a free port, with an embedded database in a temporary directory. */
export interface Harness extends AsyncDisposable {
  readonly controlPlane: ControlPlane;
  readonly agent: MemoryAgent;
  readonly dataDir: string;
  /** The log so far, as JSON lines. */
  log(): string;
  /** An HTTP request with the local API key. */
  request(path: string, init?: RequestInit): Promise<Response>;
  /** A request with a JSON body. */
  send(method: string, path: string, body: unknown): Promise<Response>;
  create(body?: object): Promise<rest.Sandbox>;
  get(id: string): Promise<rest.Sandbox>;
  /** Destroys all sandboxes. */
  clear(): Promise<void>;
}

/** The environment of a control plane: a data directory, an agent, a logger. */
export interface TestSite extends AsyncDisposable {
  readonly dataDir: string;
  readonly agent: MemoryAgent;
  readonly options: ControlPlaneOptions;
  log(): string;
}

/** How soon a control plane takes over the hosts of another that died. */
export const FAST_CLAIMS = { claimMs: 1_500, claimIntervalMs: 100, claimPauseMs: 2_000 };

export async function openTestSite(): Promise<TestSite> {
  await using stack = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'torpor-cp-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const agent = stack.use(await MemoryAgent.start());
  const { logger, text } = recordingLogger();
  const moved = stack.move();
  return {
    dataDir,
    agent,
    options: {
      dataDir,
      host: '127.0.0.1',
      port: 0,
      hostTransport: agent.transport,
      logger,
      version: '0.0.0-test',
      reconcilerTiming: {
        unreachableAfterMs: 300,
        reconnectMs: 20,
        listIntervalMs: 100,
        recoveryIntervalMs: 50,
      },
      hostTiming: FAST_CLAIMS,
    },
    log: text,
    [Symbol.asyncDispose]: () => moved.disposeAsync(),
  };
}

export async function startHarness(options: Partial<ControlPlaneOptions> = {}): Promise<Harness> {
  await using stack = new AsyncDisposableStack();
  const site = stack.use(await openTestSite());
  const { dataDir, agent, log } = site;
  const controlPlane = stack.use(await ControlPlane.start({ ...site.options, ...options }));
  const request = (path: string, init: RequestInit = {}) =>
    fetch(`${controlPlane.url}${path}`, {
      ...init,
      headers: { 'x-api-key': controlPlane.apiKey, ...init.headers },
    });
  const send = (method: string, path: string, body: unknown) =>
    request(path, {
      method,
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
  const moved = stack.move();
  return {
    controlPlane,
    agent,
    dataDir,
    log,
    request,
    send,
    async create(body = {}) {
      const response = await send('POST', '/v1/sandboxes', body);
      if (response.status !== 201) throw new Error(`create: ${await response.text()}`);
      return (await response.json()) as rest.Sandbox;
    },
    async get(id) {
      return (await (await request(`/v1/sandboxes/${id}`)).json()) as rest.Sandbox;
    },
    async clear() {
      const response = await request('/v1/sandboxes?limit=1000');
      for (const { id } of ((await response.json()) as rest.SandboxList).sandboxes) {
        await request(`/v1/sandboxes/${id}`, { method: 'DELETE' });
      }
    },
    [Symbol.asyncDispose]: () => moved.disposeAsync(),
  };
}

/** The error of a response, with its status. */
export async function errorOf(
  response: Response,
): Promise<{ readonly status: number } & rest.ErrorBody['error']> {
  return { status: response.status, ...((await response.json()) as rest.ErrorBody).error };
}

/** A logger at the lowest level, and its output. */
export function recordingLogger(): { logger: Logger; text: () => string } {
  let text = '';
  const logger = pino({ level: 'trace' }, { write: (line: string) => (text += line) });
  return { logger, text: () => text };
}

/** Polls until `condition` holds. Throws if it does not within `timeoutMs`. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 15_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`Not true within ${timeoutMs} ms: ${condition}`);
    await delay(10);
  }
}
