import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { type Client, createClient } from '@connectrpc/connect';
import { createStreamingClient, hostAgent, newId, TorporError } from '@torpor/protocol';
import { type RpcAgent, startRpcAgent, TRANSPORTS } from '@torpor/testkit/agent';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { reapIdle } from '../lifecycle/reap.ts';

/*
 * A stream counts as use of its sandbox exactly as long as it is open, however its reader
 * disconnects: else the sandbox would never be idle again.
 */

type HostClient = Client<typeof hostAgent.HostAgentService>;

let agent: RpcAgent;
let client: HostClient;
let sandboxId: string;
const directory = `/tmp/torpor-leaving-${process.pid}`;
const big = `${directory}/big`;

beforeAll(async () => {
  agent = await startRpcAgent();
  client = createStreamingClient(hostAgent.HostAgentService, agent.transports.HTTP);
  sandboxId = newId('sandbox');
  const request = { sandboxId, vcpus: 1, memoryMb: 128, defaultUser: 'root' };
  await client.createSandbox(request);
  await client.writeFileStream(upload(big, Array(16).fill(randomBytes(1024 * 1024))));
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
  await agent[Symbol.asyncDispose]();
});

async function* upload(path: string, chunks: Iterable<Uint8Array>) {
  yield { content: { case: 'meta' as const, value: { sandboxId, path } } };
  for (const value of chunks) yield { content: { case: 'chunk' as const, value } };
}

/** The time of the last use of a sandbox in use is the current time. */
async function inUse(): Promise<boolean> {
  const before = agent.registry.get(sandboxId).lastActiveAt;
  await delay(5);
  return agent.registry.get(sandboxId).lastActiveAt !== before;
}

async function released(): Promise<void> {
  await expect.poll(inUse, { timeout: 20_000 }).toBe(false);
}

type Stream = AsyncIterable<object>;
type Open = (signal: AbortSignal) => Stream;

interface Kind {
  readonly name: string;
  /** Closes by itself. */
  readonly short: Open;
  /** Open until its reader disconnects. */
  readonly endless: Open;
  readonly lastEvent?: string;
}

function caseOf(message: object): unknown {
  if (!('event' in message)) return undefined;
  return (message.event as { readonly case?: string }).case;
}

const shell = (script: string) => ({ sandboxId, cmd: '/bin/sh', args: ['-c', script] });

/** Events of a process that was started for the purpose and is killed with the test. */
async function* connected(script: string, signal: AbortSignal): AsyncGenerator<object> {
  const { tag } = await client.startBackground(shell(script));
  const selector = { case: 'tag' as const, value: tag };
  try {
    yield* client.connectProcess({ sandboxId, selector }, { signal });
  } finally {
    await client.killProcess({ sandboxId, selector }).catch(() => undefined);
  }
}

const KINDS: readonly Kind[] = [
  {
    name: 'exec',
    short: (signal) => client.execStream(shell('echo 1; echo 2'), { signal }),
    endless: (signal) => client.execStream(shell('yes | head -c 50000000'), { signal }),
    lastEvent: 'end',
  },
  {
    name: 'exec with a time limit',
    short: (signal) => client.execStream({ ...shell('echo 1'), timeoutSec: 60 }, { signal }),
    endless: (signal) => client.execStream({ ...shell('sleep 60'), timeoutSec: 1 }, { signal }),
    lastEvent: 'end',
  },
  {
    name: 'connect',
    short: (signal) => connected('sleep 0.2; echo 1', signal),
    endless: (signal) => connected('while sleep 0.01; do echo 1; done', signal),
    lastEvent: 'end',
  },
  {
    name: 'terminal',
    short: (signal) => client.ptyAttach(shell('echo 1'), { signal }),
    endless: (signal) => client.ptyAttach(shell('yes | head -c 50000000'), { signal }),
    lastEvent: 'exited',
  },
  {
    name: 'file',
    short: (signal) => client.readFileStream({ sandboxId, path: '/etc/hostname' }, { signal }),
    endless: (signal) => client.readFileStream({ sandboxId, path: big }, { signal }),
  },
];

describe.each(TRANSPORTS)('over %s', (transport) => {
  beforeAll(() => {
    client = createStreamingClient(hostAgent.HostAgentService, agent.transports[transport]);
  });
  beforeEach(released);

  describe.each(KINDS)('$name', ({ short, endless, lastEvent }) => {
    const { signal } = new AbortController();

    test('read to its end', async () => {
      for await (const _ of short(signal));
      await released();
    });

    test('left at its last event', async () => {
      for await (const message of short(signal)) if (caseOf(message) === lastEvent) break;
      await released();
    });

    test('left in the middle', async () => {
      for await (const _ of endless(signal)) {
        expect(await inUse()).toBe(true);
        break;
      }
      await released();
    });

    test('left by an exception of the reader', async () => {
      const reading = (async () => {
        for await (const _ of endless(signal)) throw new Error('enough');
      })();
      await expect(reading).rejects.toThrow('enough');
      await released();
    });

    test('aborted while the reader waits', async () => {
      const abort = new AbortController();
      const reading = (async () => {
        for await (const _ of endless(abort.signal)) setImmediate(() => abort.abort());
      })();
      await expect(reading).rejects.toThrow();
      await released();
    });

    test('aborted while the reader does not read', async () => {
      const abort = new AbortController();
      const messages = endless(abort.signal)[Symbol.asyncIterator]();
      await messages.next();
      abort.abort();
      await released();
      await messages.return?.();
    });

    test('aborted before it has begun', async () => {
      const abort = new AbortController();
      const messages = endless(abort.signal)[Symbol.asyncIterator]();
      const first = messages.next();
      abort.abort();
      await expect(first).rejects.toThrow();
      await released();
    });
  });

  test('a reader without `return` that only aborts', async () => {
    const plain = createClient(hostAgent.HostAgentService, agent.transports[transport]);
    const abort = new AbortController();
    const stream = plain.execStream(shell('echo 1'), { signal: abort.signal });
    for await (const { event } of stream) if (event.case === 'end') break;
    abort.abort();
    await released();
  });

  test('an upload whose content fails, and one that is refused before it is read', async () => {
    async function* failing() {
      yield* upload(`${directory}/failing`, [Buffer.alloc(100_000)]);
      throw new Error('the source broke off');
    }
    await expect(client.writeFileStream(failing())).rejects.toThrow('the source broke off');
    await released();
    let left = false;
    async function* refused() {
      try {
        yield* upload('/proc/none/file', Array(100).fill(Buffer.alloc(100_000)));
      } finally {
        left = true;
      }
    }
    await expect(client.writeFileStream(refused())).rejects.toThrow();
    await released();
    await expect.poll(() => left).toBe(true);
  });

  test('a watcher of the sandboxes that disconnects is dropped', async () => {
    let closed = 0;
    const watching = agent.registry.watch.bind(agent.registry);
    agent.registry.watch = async function* (...request) {
      try {
        yield* watching(...request);
      } finally {
        closed++;
      }
    };
    for await (const { event } of client.watchSandboxes({})) {
      if (event.case === 'synchronised') break;
    }
    await expect.poll(() => closed).toBe(1);
    agent.registry.watch = watching;
  });
});

test('a pause closes the streams with an error, and they no longer count as use', async () => {
  const stalled = client.execStream(shell('yes'))[Symbol.asyncIterator]();
  await stalled.next();
  const reading = (async () => {
    for await (const { event } of client.execStream(shell('echo up; sleep 600')))
      if (event.case === 'data') void client.pauseSandbox({ sandboxId });
  })();
  const error = TorporError.from(await reading.catch((reason: unknown) => reason));
  expect(error).toMatchObject({
    code: 'invalid_state',
    message: `Sandbox ${sandboxId} has been paused.`,
  });
  await client.resumeSandbox({ sandboxId });
  await released();
  await stalled.return?.();
});

test('the sandbox is idle again after that, and is destroyed in time', async () => {
  await client.resumeSandbox({ sandboxId, timeoutSec: 60 });
  for await (const { event } of client.execStream(shell('true'))) if (event.case === 'end') break;
  await released();
  agent.host.clock += 59_000;
  await reapIdle(agent.registry);
  expect(agent.registry.get(sandboxId).state).toBe('running');
  agent.host.clock += 2_000;
  await reapIdle(agent.registry);
  expect(agent.registry.list()).toEqual([]);
});
