import { rest } from '@torpor/protocol';
import { z } from 'zod';
import { type GuestProcesses, selectProcess } from '../../guest/processes.ts';
import { type Api, addEndpoint } from '../endpoint.ts';
import { sandboxParamsSchema } from './sandboxes.ts';

const TAG = 'Processes';

export function addProcessRoutes(api: Api, processes: GuestProcesses): void {
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/exec',
      operationId: 'exec',
      summary: 'Run a program',
      description:
        'In the foreground the answer comes when the program has ended; it is killed if the client hangs up. ' +
        `Of each stream the first ${rest.MAX_EXEC_OUTPUT_BYTES} bytes are kept; \`truncated\` says if there was more.`,
      tag: TAG,
      params: sandboxParamsSchema,
      body: rest.execRequestSchema,
      responses: {
        200: {
          description: 'It has ended.',
          content: { 'application/json': rest.execResultSchema },
        },
        202: {
          description: 'It runs in the background.',
          content: { 'application/json': rest.backgroundExecSchema },
        },
      },
    },
    async (c, { body }) => {
      const id = c.req.param('id') ?? '';
      if (body.background) {
        return c.json(await processes.startBackground(c.get('principal'), id, body), 202);
      }
      return c.json(await processes.exec(c.get('principal'), id, body, c.req.raw.signal));
    },
  );
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/sandboxes/{id}/processes',
      operationId: 'listProcesses',
      summary: 'List the programs that were started through the API and still run',
      tag: TAG,
      params: sandboxParamsSchema,
      query: rest.listProcessesQuerySchema,
      responses: {
        200: {
          description: 'The processes.',
          content: { 'application/json': rest.processListSchema },
        },
      },
    },
    async (c, { query }) => {
      const id = c.req.param('id') ?? '';
      return c.json(await processes.list(c.get('principal'), id, query.all === 'true'));
    },
  );
  addEndpoint(
    api,
    {
      method: 'delete',
      path: '/v1/sandboxes/{id}/processes/{selector}',
      operationId: 'killProcess',
      summary: 'Send a signal to a process and its session',
      tag: TAG,
      params: sandboxParamsSchema.extend({
        selector: z.string().meta({ description: 'A pid, or a tag.', example: 'web-server' }),
      }),
      query: rest.killProcessQuerySchema,
      responses: { 204: { description: 'The signal is sent.' } },
    },
    async (c, { query }) => {
      const selector = selectProcess(c.req.param('selector') ?? '');
      await processes.kill(c.get('principal'), c.req.param('id') ?? '', selector, query.signal);
      return c.body(null, 204);
    },
  );
}
