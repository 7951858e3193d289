/**
 * A program for tests: a control plane that blocks in the middle of a create and of a
 * destroy, so that it can be killed there. Prints one line of JSON with the ids.
 */

import { ControlPlane } from '@torpor/control-plane';
import type { rest } from '@torpor/protocol';
import { pino } from 'pino';
import { until } from './harness.ts';
import { MemoryAgent } from './memory-agent.ts';

const [dataDir = ''] = process.argv.slice(2);
const agent = await MemoryAgent.start();
const { url, apiKey } = await ControlPlane.start({
  dataDir,
  host: '127.0.0.1',
  port: 0,
  hostTransport: agent.transport,
  logger: pino({ level: 'silent' }),
  version: '0.0.0-test',
});

const headers = { 'x-api-key': apiKey };
const create = () => fetch(`${url}/v1/sandboxes`, { method: 'POST', headers, body: '{}' });
const createdId = async () => ((await (await create()).json()) as rest.Sandbox).id;
const idIn = async (state: string) => {
  const response = await fetch(`${url}/v1/sandboxes?state=${state}`, { headers });
  return ((await response.json()) as rest.SandboxList).sandboxes[0]?.id;
};

const running = await createdId();
const destroying = await createdId();
agent.createGate = Promise.withResolvers<void>().promise;
agent.destroyGate = Promise.withResolvers<void>().promise;
void create();
void fetch(`${url}/v1/sandboxes/${destroying}`, { method: 'DELETE', headers });
await until(async () => (await idIn('creating')) !== undefined);
await until(async () => (await idIn('destroying')) !== undefined);
const creating = await idIn('creating');
process.stdout.write(`${JSON.stringify({ running, destroying, creating, apiKey })}\n`);
