import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { expect, onTestFinished, test, vi } from 'vitest';
import { FirecrackerClient, FirecrackerFault } from './api-client.ts';

const PAUSE = { method: 'PATCH', path: '/vm', body: { state: 'Paused' } } as const;
const RESUME = { method: 'PATCH', path: '/vm', body: { state: 'Resumed' } } as const;
const CREATE = {
  method: 'PUT',
  path: '/snapshot/create',
  body: { snapshot_type: 'Full', snapshot_path: 's', mem_file_path: 'm' },
} as const;

type Handler = (call: string, body: unknown, response: ServerResponse) => void;

async function listen(handler: Handler, path?: string): Promise<string> {
  const socketPath = path ?? (await emptyPath());
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      if (request.url === '/version') {
        response.end(JSON.stringify({ firecracker_version: '1.16.1' }));
        return;
      }
      const text = Buffer.concat(chunks).toString();
      const call = `${request.method} ${request.url}`;
      handler(call, text === '' ? undefined : JSON.parse(text), response);
    });
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  return socketPath;
}

async function emptyPath(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-api-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  return join(directory, 'api.sock');
}

async function connected(handler: Handler): Promise<FirecrackerClient> {
  const client = await FirecrackerClient.connect(await listen(handler), { timeoutMs: 20_000 });
  onTestFinished(() => client.close());
  return client;
}

function done(response: ServerResponse): void {
  response.statusCode = 204;
  response.end();
}

function refuse(response: ServerResponse, body: string): void {
  response.statusCode = 400;
  response.end(body);
}

test('it waits for a Firecracker that does not listen yet, and asks for its version', async () => {
  const path = await emptyPath();
  let attempts = 0;
  const connecting = FirecrackerClient.connect(path, {
    timeoutMs: 20_000,
    givenUp: () => {
      attempts++;
      return undefined;
    },
  });
  await vi.waitFor(() => expect(attempts).toBeGreaterThan(2));
  await listen((_, __, response) => done(response), path);
  const client = await connecting;
  onTestFinished(() => client.close());
  expect(client.version).toBe('1.16.1');
});

test('it stops waiting for one that has exited, and after a time limit', async () => {
  const exited = new TorporError('vmm_failed', 'It has exited.');
  const path = await emptyPath();
  const connecting = FirecrackerClient.connect(path, { timeoutMs: 20_000, givenUp: () => exited });
  await expect(connecting).rejects.toBe(exited);
  const waiting = FirecrackerClient.connect(path, { timeoutMs: 30 });
  await expect(waiting).rejects.toMatchObject({ code: 'vmm_failed' });
});

test('a refusal has the message of Firecracker', async () => {
  const client = await connected((_, __, response) => {
    refuse(response, JSON.stringify({ fault_message: 'unknown field `x`\nat line 1' }));
  });
  const error = await client.send(PAUSE).catch((error: unknown) => error);
  expect(error).toMatchObject({
    code: 'vmm_failed',
    message: 'Firecracker refused PATCH /vm: unknown field `x` at line 1.',
    cause: expect.any(FirecrackerFault),
  });
});

test('a refusal without a message, and a response that cannot be parsed, are reported as such', async () => {
  const client = await connected((call, _, response) => {
    if (call === 'GET /') response.end('"nonsense"');
    else refuse(response, '<html>');
  });
  await expect(client.send(PAUSE)).rejects.toThrow('Firecracker refused PATCH /vm: status 400.');
  await expect(client.state()).rejects.toThrow(/cannot be parsed/);
});

test('calls are made one at a time, in their order, also after one that failed', async () => {
  const seen: unknown[] = [];
  let isBusy = false;
  const client = await connected((_, body, response) => {
    expect(isBusy).toBe(false);
    isBusy = true;
    seen.push(body);
    setImmediate(() => {
      isBusy = false;
      if (seen.length === 1) refuse(response, '{"fault_message":"not now"}');
      else done(response);
    });
  });
  const calls = [client.send(PAUSE), client.send(RESUME), client.send(PAUSE)];
  const outcomes = await Promise.allSettled(calls);
  expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled']);
  expect(seen).toEqual([PAUSE.body, RESUME.body, PAUSE.body]);
});

test('a call without a response times out, but a snapshot never does', async () => {
  const limits: number[] = [];
  const timeout = vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => {
    limits.push(ms);
    return AbortSignal.abort(new Error(`no response within ${ms} ms`));
  });
  onTestFinished(() => timeout.mockRestore());
  const path = await listen((_, __, response) => done(response));
  await expect(FirecrackerClient.connect(path, { timeoutMs: 5000 })).rejects.toThrow(/no response/);
  timeout.mockRestore();
  const client = await FirecrackerClient.connect(path, { timeoutMs: 20_000 });
  onTestFinished(() => client.close());
  const again = vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => {
    return AbortSignal.abort(new Error(`no response within ${ms} ms`));
  });
  onTestFinished(() => again.mockRestore());
  await expect(client.send(PAUSE)).rejects.toThrow(/no response within 30000 ms/);
  await client.send(CREATE);
});

test('calls fail when Firecracker exits', async () => {
  const client = await connected((_, __, response) => response.socket?.destroy());
  await expect(client.send(CREATE)).rejects.toMatchObject({
    code: 'vmm_failed',
    message: expect.stringMatching(/^Firecracker did not respond to PUT \/snapshot\/create: .*\.$/),
  });
});
