import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { BuildService } from '../../builds/service.ts';
import type { SandboxLifecycle } from '../../sandboxes/lifecycle.ts';
import type { TemplateService } from '../../templates/service.ts';
import { type Api, addEndpoint } from '../endpoint.ts';
import { sandboxParamsSchema } from './sandboxes.ts';

const GOES_ON = 'It goes on if the client hangs up meanwhile.';

/** Pause, resume and fork. */
export function addLifecycleRoutes(api: Api, lifecycle: SandboxLifecycle): void {
  const tag = 'Sandboxes';
  const sandbox = { 'application/json': rest.sandboxSchema };
  const params = sandboxParamsSchema;

  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/pause',
      operationId: 'pauseSandbox',
      summary: 'Pause a running sandbox: its memory and disk are kept, nothing else is held',
      description: GOES_ON,
      tag,
      params,
      responses: { 200: { description: 'It is paused.', content: sandbox } },
    },
    async (c) => c.json(await lifecycle.pause(c.get('principal'), c.req.param('id') ?? '')),
  );
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/resume',
      operationId: 'resumeSandbox',
      summary: 'Let a paused sandbox run on where it was',
      description: `One in state \`error\` runs on from its last build, if it has one. ${GOES_ON}`,
      tag,
      params,
      body: rest.resumeSandboxSchema,
      responses: { 200: { description: 'It runs.', content: sandbox } },
    },
    async (c, { body }) =>
      c.json(await lifecycle.resume(c.get('principal'), c.req.param('id') ?? '', body)),
  );
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/fork',
      operationId: 'forkSandbox',
      summary: 'Copy a running or paused sandbox, which goes on as it was',
      description: GOES_ON,
      tag,
      params,
      body: rest.forkSandboxSchema,
      responses: {
        201: {
          description: 'A result for each copy; look at each of them.',
          content: { 'application/json': rest.forkResultSchema },
        },
      },
    },
    async (c, { body }) =>
      c.json(await lifecycle.fork(c.get('principal'), c.req.param('id') ?? '', body), 201),
  );
}

const nameParamsSchema = z.object({ name: z.string() });

export function addSnapshotRoutes(api: Api, templates: TemplateService): void {
  const tag = 'Snapshots';
  const snapshot = { 'application/json': rest.snapshotSchema };
  const params = nameParamsSchema;

  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/snapshots',
      operationId: 'createSnapshot',
      summary: 'Keep the present state of a sandbox under a name, to make sandboxes from',
      description: `The sandbox must be running or paused, and is paused afterwards. ${GOES_ON}`,
      tag,
      query: rest.createSnapshotQuerySchema,
      body: rest.createSnapshotSchema,
      responses: { 201: { description: 'It is there.', content: snapshot } },
    },
    async (c, { body, query }) => {
      const overwrite = query.overwrite === 'true';
      return c.json(await templates.create(c.get('principal'), body, { overwrite }), 201);
    },
  );
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/snapshots',
      operationId: 'listSnapshots',
      summary: 'What sandboxes can be made from: snapshots of the team, images of the platform',
      tag,
      query: rest.listSnapshotsQuerySchema,
      responses: {
        200: {
          description: 'All of them.',
          content: { 'application/json': rest.snapshotListSchema },
        },
      },
    },
    async (c, { query }) => c.json(await templates.list(c.get('principal'), query.type)),
  );
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/snapshots/{name}',
      operationId: 'getSnapshot',
      summary: 'A snapshot, or an image of the platform',
      tag,
      params,
      responses: { 200: { description: 'It.', content: snapshot } },
    },
    async (c) => c.json(await templates.get(c.get('principal'), c.req.param('name') ?? '')),
  );
  addEndpoint(
    api,
    {
      method: 'delete',
      path: '/v1/snapshots/{name}',
      operationId: 'deleteSnapshot',
      summary: 'Delete a snapshot; sandboxes made from it are not touched',
      tag,
      params,
      responses: { 204: { description: 'The name is free.' } },
    },
    async (c) => {
      await templates.delete(c.get('principal'), c.req.param('name') ?? '');
      return c.body(null, 204);
    },
  );
}

/** For whoever runs the host. */
export function addBuildRoutes(api: Api, builds: BuildService): void {
  const tag = 'Builds';
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/builds',
      operationId: 'verifyBuilds',
      summary: 'Read every build of the host back, and say what is wrong with it',
      tag,
      query: rest.verifyBuildsQuerySchema,
      responses: {
        200: {
          description: 'A report for each build.',
          content: { 'application/json': rest.buildReportListSchema },
        },
      },
    },
    async (c) => c.json({ builds: await builds.verify(c.get('principal')) }),
  );
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/builds/collect',
      operationId: 'collectBuilds',
      summary: 'Remove the builds that nothing reaches',
      tag,
      responses: {
        200: {
          description: 'What was removed.',
          content: { 'application/json': rest.collectedBuildsSchema },
        },
      },
    },
    async (c) => c.json(await builds.collect(c.get('principal'))),
  );
}
