import { rest } from '@torpor/protocol';
import type { SandboxLifecycle } from '../../sandboxes/lifecycle.ts';
import { type Api, addEndpoint, defineEndpoint } from '../endpoint.ts';
import { sandboxParams } from './params.ts';

const TAG = 'Sandboxes';
const SANDBOX = { 'application/json': rest.sandboxSchema };
const GOES_ON = 'It goes on if the client hangs up meanwhile.';

const PAUSE = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/pause',
  operationId: 'pauseSandbox',
  summary: 'Pause a running sandbox: its memory and disk are kept, nothing else is held',
  description: GOES_ON,
  tag: TAG,
  params: sandboxParams,
  responses: { 200: { description: 'It is paused.', content: SANDBOX } },
});

const RESUME = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/resume',
  operationId: 'resumeSandbox',
  summary: 'Let a paused sandbox run on where it was',
  description: `One in state \`error\` runs on from its last build, if it has one. ${GOES_ON}`,
  tag: TAG,
  params: sandboxParams,
  body: rest.resumeSandboxSchema,
  responses: { 200: { description: 'It runs.', content: SANDBOX } },
});

const FORK = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/fork',
  operationId: 'forkSandbox',
  summary: 'Copy a running or paused sandbox, which goes on as it was',
  description: GOES_ON,
  tag: TAG,
  params: sandboxParams,
  body: rest.forkSandboxSchema,
  responses: {
    201: {
      description: 'A result for each copy; look at each of them.',
      content: { 'application/json': rest.forkResultSchema },
    },
  },
});

/** Pause, resume and fork. */
export function addLifecycleRoutes(api: Api, lifecycle: SandboxLifecycle): void {
  addEndpoint(api, PAUSE, async (c, { params }) =>
    c.json(await lifecycle.pause(c.get('principal'), params.id)),
  );
  addEndpoint(api, RESUME, async (c, { params, body }) =>
    c.json(await lifecycle.resume(c.get('principal'), params.id, body)),
  );
  addEndpoint(api, FORK, async (c, { params, body }) =>
    c.json(await lifecycle.fork(c.get('principal'), params.id, body), 201),
  );
}
