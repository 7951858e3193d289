import { createClient, createRouterTransport } from '@connectrpc/connect';
import { currentRequestId, hostAgent, logRequestIds } from '@torpor/protocol';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { nameRequest } from './name-request.ts';

test('what is logged during a call has the id of the request that caused it', async () => {
  const lines: { msg: string; request_id?: string; part?: string }[] = [];
  const stream = { write: (line: string) => void lines.push(JSON.parse(line)) };
  const logger = logRequestIds(pino({}, stream)).child({ part: 'agent' });
  const transport = createRouterTransport((router) =>
    router.service(
      hostAgent.HostAgentService,
      {
        pingSandbox: async ({ sandboxId }) => {
          await new Promise((resolve) => setImmediate(resolve));
          logger.info(sandboxId);
          return {};
        },
        watchSandboxes: async function* () {
          yield {};
          logger.info({ err: new Error('broken') }, `stream of ${currentRequestId()}`);
        },
      },
      { interceptors: [nameRequest] },
    ),
  );
  const client = createClient(hostAgent.HostAgentService, transport);
  const ping = (sandboxId: string, headers: Record<string, string>) =>
    client.pingSandbox({ sandboxId }, { headers });
  await Promise.all([
    ping('a', { 'x-request-id': 'one' }),
    ping('b', { 'x-request-id': 'two' }),
    ping('none', {}),
    ping('unusable', { 'x-request-id': 'x'.repeat(129) }),
  ]);
  await Array.fromAsync(client.watchSandboxes({}, { headers: { 'x-request-id': 'three' } }));
  expect(Object.fromEntries(lines.map(({ msg, request_id }) => [msg, request_id]))).toEqual({
    a: 'one',
    b: 'two',
    none: undefined,
    unusable: undefined,
    'stream of three': 'three',
  });
  expect(lines.every(({ part }) => part === 'agent')).toBe(true);
});
