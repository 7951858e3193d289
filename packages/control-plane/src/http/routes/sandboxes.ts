import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { SandboxService } from '../../sandboxes/service.ts';
import { type Api, addEndpoint } from '../endpoint.ts';

const TAG = 'Sandboxes';
const DEFAULT_CONSOLE_BYTES = 64 * 1024;
const MAX_CONSOLE_BYTES = 4 * 1024 * 1024;

export const sandboxParamsSchema = z.object({ id: rest.sandboxIdSchema });

const consoleQuerySchema = z.strictObject({
  max_bytes: z.coerce
    .number()
    .int()
    .min(1)
    .max(MAX_CONSOLE_BYTES)
    .default(DEFAULT_CONSOLE_BYTES)
    .meta({ description: 'The last so many bytes.' }),
});

export function addSandboxRoutes(api: Api, sandboxes: SandboxService): void {
  const sandbox = { 'application/json': rest.sandboxSchema };
  const params = sandboxParamsSchema;
  const id = (c: { req: { param(name: string): string | undefined } }) => c.req.param('id') ?? '';

  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes',
      operationId: 'createSandbox',
      summary: 'Create a sandbox',
      description:
        'Answers when the sandbox runs. The create goes on if the client hangs up meanwhile.',
      tag: TAG,
      body: rest.createSandboxSchema,
      responses: { 201: { description: 'It runs.', content: sandbox } },
    },
    async (c, { body }) => c.json(await sandboxes.create(c.get('principal'), body), 201),
  );
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/sandboxes',
      operationId: 'listSandboxes',
      summary: 'List sandboxes, newest first',
      tag: TAG,
      query: rest.listSandboxesQuerySchema,
      responses: {
        200: {
          description: 'A page of sandboxes.',
          content: { 'application/json': rest.sandboxListSchema },
        },
      },
    },
    async (c, { query }) => c.json(await sandboxes.list(c.get('principal'), query)),
  );
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/sandboxes/{id}',
      operationId: 'getSandbox',
      summary: 'A sandbox',
      tag: TAG,
      params,
      responses: { 200: { description: 'The sandbox.', content: sandbox } },
    },
    async (c) => c.json(await sandboxes.get(c.get('principal'), id(c))),
  );
  addEndpoint(
    api,
    {
      method: 'delete',
      path: '/v1/sandboxes/{id}',
      operationId: 'destroySandbox',
      summary: 'Destroy a sandbox',
      tag: TAG,
      params,
      responses: { 204: { description: 'It is gone; also if it was already.' } },
    },
    async (c) => {
      await sandboxes.destroy(c.get('principal'), id(c));
      return c.body(null, 204);
    },
  );
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/ping',
      operationId: 'pingSandbox',
      summary: 'Count as activity: the idle timeout starts anew',
      tag: TAG,
      params,
      responses: { 204: { description: 'Done.' } },
    },
    async (c) => {
      await sandboxes.ping(c.get('principal'), id(c));
      return c.body(null, 204);
    },
  );
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/sandboxes/{id}/console',
      operationId: 'readConsole',
      summary: 'What the guest printed on its serial console',
      tag: TAG,
      params,
      query: consoleQuerySchema,
      responses: {
        200: { description: 'The end of the log.', content: { 'text/plain': z.string() } },
      },
    },
    async (c, { query }) => {
      const bytes = await sandboxes.console(c.get('principal'), id(c), query.max_bytes);
      return c.text(new TextDecoder().decode(bytes));
    },
  );
}
