import { rest } from '@torpor/protocol';
import type { Cursor, Page } from '../../database/page.ts';
import type { IdempotencyKeys } from '../../idempotency/keys.ts';
import type { TemplateService } from '../../templates/service.ts';
import { addCreateEndpoint } from '../create-endpoint.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { cursorsOf, readPage } from './page-token.ts';
import { snapshotParams } from './params.ts';
import { presentImage, presentSnapshot, presentTemplate } from './present-snapshots.ts';

const TAG = 'Snapshots';
const POSITIONS = cursorsOf('snapshots', 'template');

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/snapshots',
  operationId: 'createSnapshot',
  access: 'snapshots.write',
  summary: 'Save the current state of a sandbox under a name, to create sandboxes from',
  description:
    'The sandbox must be running or paused, and is paused afterwards. The operation completes even if the client disconnects.',
  tag: TAG,
  query: rest.createSnapshotQuerySchema,
  body: rest.createSnapshotSchema,
  responses: { 201: jsonResponse('The snapshot is created.', rest.snapshotSchema) },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/snapshots',
  operationId: 'listSnapshots',
  access: 'snapshots.read',
  summary: 'List the templates: the snapshots of the team and the images of the platform',
  description: 'Snapshots are newest first. The images are on the last page.',
  tag: TAG,
  query: rest.listSnapshotsQuerySchema,
  responses: { 200: jsonResponse('The snapshots and images.', rest.snapshotListSchema) },
});

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/snapshots/{name}',
  operationId: 'getSnapshot',
  access: 'snapshots.read',
  summary: 'Get a snapshot, or an image of the platform',
  tag: TAG,
  params: snapshotParams,
  responses: { 200: jsonResponse('The snapshot or image.', rest.snapshotSchema) },
});

const DELETE = defineEndpoint({
  method: 'delete',
  path: '/v1/snapshots/{name}',
  operationId: 'deleteSnapshot',
  access: 'snapshots.write',
  summary: 'Delete a snapshot; sandboxes created from it are not affected',
  tag: TAG,
  params: snapshotParams,
  responses: { 204: { description: 'The snapshot is deleted.' } },
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
      };
      const { row, timings } = await templates.create(c.get('principal'), request, record);
      return c.json(presentSnapshot(row, timings), 201);
    },
    outcome: async (c, _, { ids: [id = ''] }) =>
      c.json(presentSnapshot((await templates.created(c.get('principal'), id)).row), 201),
  });
  addEndpoint(api, LIST, async (c, { query }) => {
    const own = (page: Page<Cursor>) => templates.list(c.get('principal'), page);
    const { entries, isLast } =
      query.type === 'base'
        ? { entries: [], isLast: true }
        : await readPage(c, POSITIONS, query, own, ({ created_at: createdAt, id }) => ({
            createdAt,
            id,
          }));
    const images =
      query.type === 'snapshot' || !isLast ? [] : await templates.images(c.get('principal'));
    return c.json([...entries.map((row) => presentSnapshot(row)), ...images.map(presentImage)]);
  });
  addEndpoint(api, GET, async (c, { params }) =>
    c.json(presentTemplate(await templates.get(c.get('principal'), params.name))),
  );
  addEndpoint(api, DELETE, async (c, { params }) => {
    await templates.delete(c.get('principal'), params.name);
    return c.body(null, 204);
  });
}
