import { rest } from '@torpor/protocol';
import type { IdempotencyKeys } from '../../idempotency/keys.ts';
import type { TemplateService } from '../../templates/service.ts';
import { addCreateEndpoint } from '../create-endpoint.ts';
import { type Api, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { presentSnapshot } from './present-snapshots.ts';

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/snapshots',
  operationId: 'createSnapshot',
  access: 'snapshots.write',
  summary: 'Save the current state of a sandbox under a name, to create sandboxes from',
  description:
    'The sandbox must be running or paused, and is paused afterwards. The operation completes even if the client disconnects. A snapshot of the team Platform is a template of every team.',
  tag: 'Snapshots',
  query: rest.createSnapshotQuerySchema,
  body: rest.createSnapshotSchema,
  responses: { 201: jsonResponse('The snapshot is created.', rest.snapshotSchema) },
});

export function addSnapshotRoutes(
  api: Api,
  templates: TemplateService,
  keys: IdempotencyKeys,
): void {
  addCreateEndpoint(api, keys, CREATE, {
    create: async (c, { body, query }, record) => {
      const request = {
        sandboxId: body.sandbox_id,
        name: body.name,
        overwrite: query.overwrite === 'true',
        defaultUser: body.default_user,
        defaultEnv: body.default_env,
      };
      const { row, timings } = await templates.create(c.get('principal'), request, record);
      return c.json(presentSnapshot(row, timings), 201);
    },
    outcome: async (c, _, { ids: [id = ''] }) =>
      c.json(presentSnapshot((await templates.created(c.get('principal'), id)).row), 201),
  });
}
