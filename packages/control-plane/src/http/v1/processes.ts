import { rest } from '@torpor/protocol';
import type { GuestProcesses } from '../../guest/processes.ts';
import { accessSignal } from '../access-signal.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { processParams, sandboxParams } from './params.ts';
import { presentExec, presentProcess } from './present-processes.ts';

const TAG = 'Processes';

const EXEC = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/exec',
  operationId: 'exec',
  access: 'sandboxes.exec',
  summary: 'Run a program',
  description:
    'In the foreground, the response follows the exit of the program, which is killed if the client disconnects. ' +
    `The first ${rest.MAX_EXEC_OUTPUT_BYTES} bytes of each stream are kept; \`truncated\` says whether there was more.`,
  tag: TAG,
  params: sandboxParams,
  body: rest.execRequestSchema,
  responses: {
    200: jsonResponse('The program has exited.', rest.execResultSchema),
    202: jsonResponse('The program is running in the background.', rest.backgroundExecSchema),
  },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/sandboxes/{id}/processes',
  operationId: 'listProcesses',
  access: 'sandboxes.exec',
  summary: 'List the programs that were started through the API and are running',
  tag: TAG,
  params: sandboxParams,
  query: rest.listProcessesQuerySchema,
  responses: { 200: jsonResponse('The processes.', rest.processListSchema) },
});

const KILL = defineEndpoint({
  method: 'delete',
  path: '/v1/sandboxes/{id}/processes/{selector}',
  operationId: 'killProcess',
  access: 'sandboxes.exec',
  summary: 'Send a signal to a process and its session',
  tag: TAG,
  params: processParams,
  query: rest.killProcessQuerySchema,
  responses: { 204: { description: 'The signal is sent.' } },
});

export function addProcessRoutes(api: Api, processes: GuestProcesses): void {
  addEndpoint(api, EXEC, async (c, { params: { id }, body }) => {
    const principal = c.get('principal');
    const { cmd } = body;
    if (body.background) {
      const started = await processes.startBackground(principal, id, body, body.tag);
      const response: rest.BackgroundExec = {
        sandbox_id: id,
        cmd,
        pid: started.pid,
        tag: started.tag,
      };
      return c.json(response, 202);
    }
    const options = {
      timeoutSec: body.timeout_sec,
      maxOutputBytes: rest.MAX_EXEC_OUTPUT_BYTES,
    };
    const outcome = await processes.exec(principal, id, body, options, accessSignal(c));
    return c.json(presentExec(id, cmd, outcome));
  });
  addEndpoint(api, LIST, async (c, { params, query }) => {
    const includeExited = query.all === 'true';
    const entries = await processes.list(c.get('principal'), params.id, { includeExited });
    return c.json({ processes: entries.map(presentProcess) });
  });
  addEndpoint(api, KILL, async (c, { params, query }) => {
    await processes.kill(c.get('principal'), params.id, params.selector, query.signal);
    return c.body(null, 204);
  });
}
