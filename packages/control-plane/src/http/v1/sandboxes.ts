import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { IdempotencyKeys } from '../../idempotency/keys.ts';
import type { SandboxService } from '../../sandboxes/service.ts';
import { addCreateEndpoint } from '../create-endpoint.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { sandboxParams } from './params.ts';
import { presentOperated, presentPage, presentSandbox } from './present-sandboxes.ts';
import { listRequest, sandboxRequest, withBodyNames } from './sandbox-input.ts';

const TAG = 'Sandboxes';
/** As much as a host agent keeps. */
const MAX_CONSOLE_BYTES = 1024 * 1024;

const consoleQuerySchema = z.strictObject({
  max_bytes: z.coerce.number().int().min(1).max(MAX_CONSOLE_BYTES).optional().meta({
    description:
      'How many bytes to return, counted from the end. All that is kept if omitted: at most 1 MiB.',
  }),
});

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes',
  operationId: 'createSandbox',
  access: 'sandboxes.write',
  summary: 'Create a sandbox',
  description:
    'Responds when the sandbox is running. It is created even if the client disconnects first.',
  tag: TAG,
  body: rest.createSandboxSchema,
  responses: { 201: jsonResponse('The sandbox is running.', rest.sandboxSchema) },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/sandboxes',
  operationId: 'listSandboxes',
  access: 'sandboxes.read',
  summary: 'List sandboxes, newest first',
  tag: TAG,
  query: rest.listSandboxesQuerySchema,
  responses: { 200: jsonResponse('A page of sandboxes.', rest.sandboxListSchema) },
});

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/sandboxes/{id}',
  operationId: 'getSandbox',
  access: 'sandboxes.read',
  summary: 'Get a sandbox',
  tag: TAG,
  params: sandboxParams,
  responses: { 200: jsonResponse('The sandbox.', rest.sandboxSchema) },
});

const DESTROY = defineEndpoint({
  method: 'delete',
  path: '/v1/sandboxes/{id}',
  operationId: 'destroySandbox',
  access: 'sandboxes.write',
  summary: 'Destroy a sandbox',
  tag: TAG,
  params: sandboxParams,
  responses: { 204: { description: 'The sandbox is destroyed, or already was.' } },
});

const PING = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/ping',
  operationId: 'pingSandbox',
  access: 'sandboxes.write',
  summary: 'Report activity, which restarts the idle timeout',
  tag: TAG,
  params: sandboxParams,
  responses: { 204: { description: 'The idle timeout has restarted.' } },
});

const READ_CONSOLE = defineEndpoint({
  method: 'get',
  path: '/v1/sandboxes/{id}/console',
  operationId: 'readConsole',
  access: 'sandboxes.read',
  summary: 'Read what the guest printed on its serial console',
  tag: TAG,
  params: sandboxParams,
  query: consoleQuerySchema,
  responses: {
    200: { description: 'The end of the console log.', content: { 'text/plain': z.string() } },
  },
});

export function addSandboxRoutes(api: Api, sandboxes: SandboxService, keys: IdempotencyKeys): void {
  addCreateEndpoint(api, keys, CREATE, {
    create: async (c, { body }, record) => {
      const request = sandboxRequest(body);
      const creating = sandboxes.create(c.get('principal'), request, record);
      return c.json(presentOperated(await withBodyNames(creating)), 201);
    },
    outcome: async (c, _, { ids: [id = ''] }) => {
      const created = await sandboxes.created(c.get('principal'), id);
      return created && c.json(presentOperated(created), 201);
    },
  });
  addEndpoint(api, LIST, async (c, { query }) =>
    c.json(presentPage(await sandboxes.list(c.get('principal'), listRequest(query)))),
  );
  addEndpoint(api, GET, async (c, { params }) =>
    c.json(presentSandbox(await sandboxes.get(c.get('principal'), params.id))),
  );
  addEndpoint(api, DESTROY, async (c, { params }) => {
    await sandboxes.destroy(c.get('principal'), params.id);
    return c.body(null, 204);
  });
  addEndpoint(api, PING, async (c, { params }) => {
    await sandboxes.ping(c.get('principal'), params.id);
    return c.body(null, 204);
  });
  addEndpoint(api, READ_CONSOLE, async (c, { params, query }) => {
    const bytes = await sandboxes.console(c.get('principal'), params.id, query.max_bytes);
    return c.text(new TextDecoder().decode(bytes));
  });
}
