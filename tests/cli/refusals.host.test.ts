import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { newId, type SandboxState } from '@torpor/protocol';
import { Sandbox, Torpor, TorporError } from '@torpor/sdk';
import { Connection } from '@torpor/sdk/testing';
import { cli } from '@torpor/testkit/cli';
import { type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocketServer } from 'ws';

/*
 * Every call to a sandbox that cannot be used fails with the reason. The client of a stream
 * sends before it has received the refusal, so the refusal races with the client's frames.
 */

const TRIES = 50;
/** For cases that differ from another only in the message. */
const FEW_TRIES = 5;

const resources = new AsyncDisposableStack();
let harness: Harness;
let torpor: Torpor;

beforeAll(async () => {
  harness = resources.use(await startHarness());
  const { url, apiKey } = harness.controlPlane;
  torpor = resources.use(new Torpor({ apiUrl: url, apiKey }));
});
afterAll(() => resources.disposeAsync());

const CALLS: Record<string, (sandbox: Sandbox) => Promise<unknown>> = {
  execStream: (sandbox) => sandbox.execStream('cat', ['x'.repeat(100_000)], { stdin: true }),
  pty: (sandbox) => sandbox.pty({ cmd: 'cat' }),
  'connect to a terminal': (sandbox) => sandbox.connectPty('pty-12345678'),
  'attach to a process': (sandbox) => sandbox.processes.connect('some-tag'),
  exec: (sandbox) => sandbox.exec('true'),
  'file download': (sandbox) => sandbox.files.read('/etc/hostname'),
  'file upload': (sandbox) => sandbox.files.write('/tmp/x', Buffer.alloc(1_000_000)),
  'streamed upload': (sandbox) =>
    sandbox.files.write('/tmp/x', Readable.from(Array(50).fill(Buffer.alloc(100_000)))),
  'file list': (sandbox) => sandbox.files.list('/'),
};

/** The distinct errors of a call that is tried several times; there must be only one. */
async function refusals(call: () => Promise<unknown>, tries: number): Promise<string[]> {
  const seen = new Set<string>();
  for (let attempt = 0; attempt < tries; attempt++) {
    const outcome = await call().then(
      () => 'no error',
      (error: unknown) => {
        const { code, message } = TorporError.from(error);
        return `${code}: ${message}`;
      },
    );
    seen.add(outcome);
  }
  return [...seen];
}

async function sandboxIn(state: SandboxState, reason?: string): Promise<Sandbox> {
  const sandbox = await torpor.sandboxes.create();
  harness.agent.report(sandbox.id, state, reason);
  await until(async () => (await sandbox.refresh()).status === state);
  return sandbox;
}

describe.each<[SandboxState, string]>([
  ['paused', 'invalid_state: Sandbox ID is not running, it is paused.'],
  ['pausing', 'invalid_state: Sandbox ID is not running, it is pausing.'],
  ['resuming', 'invalid_state: Sandbox ID is not running, it is resuming.'],
  ['destroying', 'invalid_state: Sandbox ID is not running, it is destroying.'],
  ['stopped', 'invalid_state: Sandbox ID has been destroyed.'],
  ['error', 'invalid_state: Sandbox ID is not running, it is error: the VMM died'],
])('a sandbox that is %s', (state, expected) => {
  let sandbox: Sandbox;
  beforeAll(async () => {
    sandbox = await sandboxIn(state, state === 'error' ? 'the VMM died' : undefined);
  });

  test.each(Object.entries(CALLS))('%s', async (_, call) => {
    const tries = state === 'paused' ? TRIES : FEW_TRIES;
    expect(await refusals(() => call(sandbox), tries)).toEqual([
      expected.replace('ID', sandbox.id),
    ]);
  });
});

/** A sandbox object of a client with a wrong server, key or id. */
function sandboxOf(
  known: Sandbox,
  changes: { apiUrl?: string; apiKey?: string; id?: string },
): Sandbox {
  const { url, apiKey } = harness.controlPlane;
  const connection = new Connection({ apiUrl: url, apiKey, ...changes });
  resources.defer(() => connection.close());
  return new Sandbox(connection, { ...known.info, id: changes.id ?? known.id });
}

describe('a misconfigured client', () => {
  let known: Sandbox;
  beforeAll(async () => {
    known = await torpor.sandboxes.create();
  });

  test.each(Object.entries(CALLS))('an unknown sandbox: %s', async (_, call) => {
    const id = newId('sandbox');
    const sandbox = sandboxOf(known, { id });
    expect(await refusals(() => call(sandbox), FEW_TRIES)).toEqual([
      `not_found: There is no sandbox ${JSON.stringify(id)}.`,
    ]);
  });

  test.each(Object.entries(CALLS))('a wrong key: %s', async (_, call) => {
    const sandbox = sandboxOf(known, { apiKey: `tpr_${'0'.repeat(40)}` });
    expect(await refusals(() => call(sandbox), FEW_TRIES)).toEqual([
      expect.stringMatching(/^unauthorized: /),
    ]);
  });

  test.each(Object.entries(CALLS))('no server: %s', async (_, call) => {
    const sandbox = sandboxOf(known, { apiUrl: 'http://127.0.0.1:1' });
    expect(await refusals(() => call(sandbox), FEW_TRIES)).toEqual([
      expect.stringMatching(/^host_unavailable: No response from http:\/\/127.0.0.1:1: /),
    ]);
  });
});

test('the CLI reports that a sandbox is paused, and how to resume it', async () => {
  const sandbox = await sandboxIn('paused');
  const { url, apiKey } = harness.controlPlane;
  const env = { TORPOR_API_URL: url, TORPOR_API_KEY: apiKey };
  for (let attempt = 0; attempt < FEW_TRIES; attempt++) {
    const { stderr, exitCode } = await cli(['exec', sandbox.id, '--', 'true'], { env });
    expect(stderr).toContain(`Sandbox ${sandbox.id} is not running, it is paused.`);
    expect(stderr).toContain('torpor resume');
    expect(exitCode).toBe(125);
  }
});

describe('a server that closes the stream', () => {
  let server: Server;
  let sockets: WebSocketServer;
  let sandbox: Sandbox;
  let farewell: object | undefined;

  beforeAll(async () => {
    server = createServer();
    sockets = new WebSocketServer({ server });
    sockets.on('connection', (socket) => {
      socket.on('error', () => undefined);
      if (farewell !== undefined) socket.send(JSON.stringify(farewell));
      socket.close(1008);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    sandbox = sandboxOf(await torpor.sandboxes.create(), { apiUrl: `http://127.0.0.1:${port}` });
  });
  afterAll(() => {
    sockets.close();
    server.close();
  });

  const streams = ['execStream', 'pty', 'connect to a terminal', 'attach to a process'] as const;

  test.each(streams)('with an error, at once: %s', async (name) => {
    farewell = { type: 'error', code: 'invalid_state', data: 'It is paused.', fatal: true };
    expect(await refusals(async () => CALLS[name]?.(sandbox), TRIES)).toEqual([
      'invalid_state: It is paused.',
    ]);
  });

  test.each(streams)('without an error: %s', async (name) => {
    farewell = undefined;
    expect(await refusals(async () => CALLS[name]?.(sandbox), TRIES)).toEqual([
      'host_unavailable: The server closed the stream without a reason.',
    ]);
  });
});

test('a server that is being stopped reports that to attached clients and to new ones', async () => {
  await using stack = new AsyncDisposableStack();
  const other = stack.use(await startHarness());
  const { url: apiUrl, apiKey } = other.controlPlane;
  const client = stack.use(new Torpor({ apiUrl, apiKey }));
  const sandbox = await client.sandboxes.create();
  const sessions = await Promise.all([
    sandbox.execStream('sleep', ['600']),
    sandbox.pty({ cmd: 'cat' }),
  ]);
  const outcomes = sessions.map((session) => session.wait().catch((error: unknown) => error));
  const closing = other.controlPlane.close();
  const late = await refusals(() => sandbox.execStream('sleep', ['600']), TRIES);
  for (const outcome of await Promise.all(outcomes)) {
    expect(outcome).toMatchObject({
      code: 'host_unavailable',
      message: 'The server is being stopped.',
    });
  }
  // The first ones may still be accepted.
  for (const outcome of late) expect(outcome).toMatch(/^(host_unavailable: |no error$)/);
  await closing;
});
