import { rest } from '@torpor/protocol';
import type { Context } from 'hono';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { FileLocation, GuestFiles } from '../../guest/files.ts';
import { type Api, addEndpoint } from '../endpoint.ts';
import type { AppEnvironment } from '../environment.ts';
import { receiveUpload } from '../multipart.ts';
import { parseWith } from '../parse.ts';
import { bodyChunks } from '../request-body.ts';
import { streamedAnswer } from '../streamed-answer.ts';
import { sandboxParamsSchema } from './sandboxes.ts';

const TAG = 'Files';
const BINARY = { 'application/octet-stream': z.string().meta({ format: 'binary' }) };
const WRITTEN = { 204: { description: 'It is written.' } };

export function addFileRoutes(api: Api, files: GuestFiles, logger: Logger): void {
  const params = sandboxParamsSchema;
  const id = (c: Context<AppEnvironment>) => c.req.param('id') ?? '';

  const download = async (c: Context<AppEnvironment>, location: FileLocation) => {
    const content = await files.read(c.get('principal'), id(c), location, c.req.raw.signal);
    return streamedAnswer(c, content, logger);
  };

  const upload = async (
    c: Context<AppEnvironment>,
    query: z.output<typeof rest.uploadQuerySchema>,
  ) => {
    // Before the body is read: it may be long.
    await files.requireRunning(c.get('principal'), id(c));
    await receiveUpload(c.req.raw, async ({ fields, content }) => {
      const location = parseWith(
        rest.filePathQuerySchema,
        { ...Object.fromEntries(fields), ...query },
        'form (the path must come before the file, or in the query)',
      );
      await files.write(c.get('principal'), id(c), location, content, c.req.raw.signal);
    });
    return c.body(null, 204);
  };

  addEndpoint(
    api,
    {
      method: 'get',
      path: '/v1/sandboxes/{id}/files',
      operationId: 'downloadFile',
      summary: 'Read a file',
      tag: TAG,
      params,
      query: rest.filePathQuerySchema,
      responses: { 200: { description: 'Its content.', content: BINARY } },
    },
    (c, { query }) => download(c, query),
  );
  addEndpoint(
    api,
    {
      method: 'put',
      path: '/v1/sandboxes/{id}/files',
      operationId: 'uploadFile',
      summary: 'Write a file; the body is its content, of any size',
      tag: TAG,
      params,
      query: rest.filePathQuerySchema,
      streamedBody: BINARY,
      responses: WRITTEN,
    },
    async (c, { query }) => {
      const { raw } = c.req;
      await files.write(c.get('principal'), id(c), query, bodyChunks(raw), raw.signal);
      return c.body(null, 204);
    },
  );
  for (const [path, operationId] of [
    ['/v1/sandboxes/{id}/files/write', 'writeFile'],
    ['/v1/sandboxes/{id}/files/stream/write', 'writeFileStream'],
  ] as const) {
    addEndpoint(
      api,
      {
        method: 'post',
        path,
        operationId,
        summary: 'Write a file from a multipart form, of any size',
        tag: TAG,
        params,
        query: rest.uploadQuerySchema,
        streamedBody: { 'multipart/form-data': rest.uploadFormSchema },
        responses: WRITTEN,
      },
      (c, { query }) => upload(c, query),
    );
  }
  for (const [path, operationId] of [
    ['/v1/sandboxes/{id}/files/read', 'readFile'],
    ['/v1/sandboxes/{id}/files/stream/read', 'readFileStream'],
  ] as const) {
    addEndpoint(
      api,
      {
        method: 'post',
        path,
        operationId,
        summary: 'Read a file',
        tag: TAG,
        params,
        body: rest.pathRequestSchema,
        responses: { 200: { description: 'Its content.', content: BINARY } },
      },
      (c, { body }) => download(c, body),
    );
  }
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/files/list',
      operationId: 'listDirectory',
      summary: 'List a directory',
      tag: TAG,
      params,
      body: rest.listDirRequestSchema,
      responses: {
        200: { description: 'Its entries.', content: { 'application/json': rest.fileListSchema } },
      },
    },
    async (c, { body }) => c.json({ entries: await files.list(c.get('principal'), id(c), body) }),
  );
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/files/mkdir',
      operationId: 'makeDirectory',
      summary: 'Make a directory and those that lead to it',
      tag: TAG,
      params,
      body: rest.pathRequestSchema,
      responses: {
        200: {
          description: 'The directory.',
          content: { 'application/json': rest.fileEntryResponseSchema },
        },
      },
    },
    async (c, { body }) =>
      c.json({ entry: await files.makeDirectory(c.get('principal'), id(c), body) }),
  );
  addEndpoint(
    api,
    {
      method: 'post',
      path: '/v1/sandboxes/{id}/files/remove',
      operationId: 'removePath',
      summary: 'Remove a file, or a directory with what is in it',
      tag: TAG,
      params,
      body: rest.pathRequestSchema,
      responses: { 204: { description: 'It is gone.' } },
    },
    async (c, { body }) => {
      await files.remove(c.get('principal'), id(c), body);
      return c.body(null, 204);
    },
  );
}
