/** What sandboxes can be created from, under both of its paths: `/v1/snapshots` has all templates too. */
import { rest } from '@torpor/protocol';
import type { Context } from 'hono';
import type { Cursor, Page } from '../../database/page.ts';
import type { TemplateService } from '../../templates/service.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import type { AppEnvironment } from '../environment.ts';
import { cursorsOf, readPage } from './page-token.ts';
import { snapshotParams } from './params.ts';
import { presentImage, presentRow, presentTemplate } from './present-snapshots.ts';

const POSITIONS = cursorsOf('snapshots', 'template');

const PATHS = [
  { path: '/v1/snapshots', tag: 'Snapshots', one: 'Snapshot', many: 'Snapshots' },
  { path: '/v1/templates', tag: 'Templates', one: 'Template', many: 'Templates' },
] as const;

type TemplatePath = (typeof PATHS)[number];

const listOf = ({ path, tag, many }: TemplatePath) =>
  defineEndpoint({
    method: 'get',
    path,
    operationId: `list${many}`,
    access: 'snapshots.read',
    summary: 'List the templates: the snapshots of the team and of the platform, and the images',
    description:
      'Snapshots are newest first. The images are on the last page. A snapshot of the platform with the name of one of the team is left out: the name means that of the team.',
    tag,
    query: rest.listSnapshotsQuerySchema,
    responses: { 200: jsonResponse('The snapshots and images.', rest.templateListSchema) },
  });

const getOf = ({ path, tag, one }: TemplatePath) =>
  defineEndpoint({
    method: 'get',
    path: `${path}/{name}`,
    operationId: `get${one}`,
    access: 'snapshots.read',
    summary: 'Get a snapshot of the team or of the platform, or an image',
    tag,
    params: snapshotParams,
    responses: { 200: jsonResponse('The snapshot or image.', rest.templateSchema) },
  });

const deleteOf = ({ path, tag, one }: TemplatePath) =>
  defineEndpoint({
    method: 'delete',
    path: `${path}/{name}`,
    operationId: `delete${one}`,
    access: 'snapshots.write',
    summary: 'Delete a snapshot; sandboxes created from it are not affected',
    description:
      'Templates of the platform can be deleted by its admins, in the team Platform; for others the error is `forbidden`.',
    tag,
    params: snapshotParams,
    responses: { 204: { description: 'The snapshot is deleted.' } },
  });

export function addTemplateRoutes(api: Api, templates: TemplateService): void {
  for (const path of PATHS) {
    addEndpoint(api, listOf(path), (c, { query }) => list(c, templates, query));
    addEndpoint(api, getOf(path), async (c, { params }) =>
      c.json(presentTemplate(await templates.get(c.get('principal'), params.name))),
    );
    addEndpoint(api, deleteOf(path), async (c, { params }) => {
      await templates.delete(c.get('principal'), params.name);
      return c.body(null, 204);
    });
  }
}

async function list(
  c: Context<AppEnvironment>,
  templates: TemplateService,
  query: rest.ListSnapshotsQuery,
): Promise<Response> {
  const principal = c.get('principal');
  const snapshots = (page: Page<Cursor>) => templates.list(principal, page);
  const { entries, isLast } =
    query.type === 'base'
      ? { entries: [], isLast: true }
      : await readPage(c, POSITIONS, query, snapshots, ({ created_at: createdAt, id }) => ({
          createdAt,
          id,
        }));
  const images = query.type === 'snapshot' || !isLast ? [] : await templates.images(principal);
  return c.json([...entries.map(presentRow), ...images.map(presentImage)]);
}
