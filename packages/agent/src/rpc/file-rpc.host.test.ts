import { createHash, randomBytes } from 'node:crypto';
import type { Client } from '@connectrpc/connect';
import { createStreamingClient, hostAgent, newId, TorporError } from '@torpor/protocol';
import { type RpcAgent, startRpcAgent, TRANSPORTS } from '@torpor/testkit/agent';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

/* The RPCs about files of a guest, over each transport. */

let agent: RpcAgent;
let client: Client<typeof hostAgent.HostAgentService>;
const sandboxId = newId('sandbox');

beforeAll(async () => {
  agent = await startRpcAgent();
  const { HTTP: transport } = agent.transports;
  await createStreamingClient(hostAgent.HostAgentService, transport).createSandbox({
    sandboxId,
    vcpus: 1,
    memoryMb: 128,
    defaultUser: 'root',
  });
});
afterAll(() => agent[Symbol.asyncDispose]());

async function codeOf(call: Promise<unknown>): Promise<string> {
  return TorporError.from(await call.catch((error: unknown) => error)).code;
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  beforeAll(() => {
    client = createStreamingClient(hostAgent.HostAgentService, agent.transports[transport]);
  });

  const directory = `/tmp/torpor-rpc-test-${process.pid}`;
  afterAll(() => client.removePath({ sandboxId, path: directory }));

  async function* upload(path: string, chunks: Iterable<Uint8Array>) {
    const meta = { case: 'meta' as const, value: { sandboxId, path } };
    yield { content: meta };
    for (const chunk of chunks) yield { content: { case: 'chunk' as const, value: chunk } };
  }

  test('one of many megabytes is transferred unchanged, both ways', async () => {
    const chunk = randomBytes(1024 * 1024);
    const count = 40;
    const path = `${directory}/big`;
    const sent = createHash('sha256');
    for (let index = 0; index < count; index++) sent.update(chunk);
    await client.writeFileStream(
      upload(
        path,
        Array.from({ length: count }, () => chunk),
      ),
    );
    const received = createHash('sha256');
    for await (const part of client.readFileStream({ sandboxId, path }))
      received.update(part.chunk);
    expect(received.digest('hex')).toBe(sent.digest('hex'));
  });

  test('an empty one is a file too', async () => {
    const path = `${directory}/empty`;
    await client.writeFileStream(upload(path, []));
    const { entries } = await client.listDir({ sandboxId, path: directory });
    expect(entries).toContainEqual(
      expect.objectContaining({ name: 'empty', path, type: 'file', size: 0n, owner: 'root' }),
    );
  });

  test('directories are made, listed and removed', async () => {
    const path = `${directory}/a/b`;
    const { entry } = await client.makeDir({ sandboxId, path });
    expect(entry).toMatchObject({ path, type: 'directory' });
    expect(await codeOf(client.makeDir({ sandboxId, path }))).toBe('already_exists');
    const { entries } = await client.listDir({ sandboxId, path: directory, depth: 2 });
    expect(entries.map((found) => found.path)).toContain(path);
    await client.removePath({ sandboxId, path: `${directory}/a` });
    expect(await codeOf(client.listDir({ sandboxId, path }))).toBe('not_found');
  });

  test('what does not exist, and what is not a file, cannot be read', async () => {
    const read = async (path: string) => {
      for await (const _ of client.readFileStream({ sandboxId, path })) break;
    };
    expect(await codeOf(read('/no/such/file'))).toBe('not_found');
    expect(await codeOf(read('/tmp'))).toBe('invalid_request');
    expect(await codeOf(read(''))).toBe('invalid_request');
  });

  test('an upload whose client disconnects leaves no partial file', async () => {
    const path = `${directory}/half`;
    const disconnected = new AbortController();
    async function* half() {
      yield* upload(path, [Buffer.alloc(300_000)]);
      disconnected.abort();
      await new Promise(() => undefined);
    }
    const call = client.writeFileStream(half(), { signal: disconnected.signal });
    await expect(call).rejects.toThrow();
    // The next call sees what it left.
    await client.writeFileStream(upload(`${directory}/after`, []));
    const { entries } = await client.listDir({ sandboxId, path: directory });
    expect(entries.map(({ name }) => name)).not.toContain('half');
  });

  test('the first message of an upload must have its path', async () => {
    async function* chunkFirst() {
      yield { content: { case: 'chunk' as const, value: new Uint8Array(1) } };
    }
    expect(await codeOf(client.writeFileStream(chunkFirst()))).toBe('invalid_request');
  });
});
