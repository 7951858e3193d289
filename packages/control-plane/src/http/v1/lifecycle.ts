import { rest } from '@torpor/protocol';
import type { IdempotencyKeys } from '../../idempotency/keys.ts';
import type { SandboxLifecycle } from '../../sandboxes/lifecycle.ts';
import { addCreateEndpoint } from '../create-endpoint.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { sandboxParams } from './params.ts';
import { presentFork, presentOperated } from './present-sandboxes.ts';

const TAG = 'Sandboxes';
const IS_COMPLETED = 'The operation completes even if the client disconnects.';

const PAUSE = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/pause',
  operationId: 'pauseSandbox',
  access: 'sandboxes.write',
  summary: 'Pause a running sandbox: its memory and disk are kept, and everything else is freed',
  description: IS_COMPLETED,
  tag: TAG,
  params: sandboxParams,
  responses: { 200: jsonResponse('The sandbox is paused.', rest.sandboxSchema) },
});

const RESUME = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/resume',
  operationId: 'resumeSandbox',
  access: 'sandboxes.write',
  summary: 'Resume a paused sandbox where it was paused',
  description: `One in state \`error\` is resumed from its last build, if it has one. ${IS_COMPLETED}`,
  tag: TAG,
  params: sandboxParams,
  body: rest.resumeSandboxSchema,
  responses: { 200: jsonResponse('The sandbox is running.', rest.sandboxSchema) },
});

const FORK = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/fork',
  operationId: 'forkSandbox',
  access: 'sandboxes.write',
  summary: 'Copy a running or paused sandbox, which stays as it was',
  description: IS_COMPLETED,
  tag: TAG,
  params: sandboxParams,
  body: rest.forkSandboxSchema,
  responses: {
    201: jsonResponse('A result for each copy: a sandbox or an error.', rest.forkResultSchema),
  },
});

/** Pause, resume and fork. */
export function addLifecycleRoutes(
  api: Api,
  lifecycle: SandboxLifecycle,
  keys: IdempotencyKeys,
): void {
  addEndpoint(api, PAUSE, async (c, { params }) =>
    c.json(presentOperated(await lifecycle.pause(c.get('principal'), params.id))),
  );
  addEndpoint(api, RESUME, async (c, { params, body }) => {
    const request = { timeoutSec: body.timeout_sec };
    const resumed = await lifecycle.resume(c.get('principal'), params.id, request);
    return c.json(presentOperated(resumed));
  });
  addCreateEndpoint(api, keys, FORK, {
    create: async (c, { params, body }, record) => {
      const request = { count: body.count, timeoutSec: body.timeout_sec };
      const forked = await lifecycle.fork(c.get('principal'), params.id, request, record);
      return c.json(presentFork(forked), 201);
    },
    outcome: async (c, _, made) => {
      const forked = await lifecycle.forked(c.get('principal'), made);
      return forked && c.json(presentFork(forked), 201);
    },
  });
}
