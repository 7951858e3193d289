import { rest } from '@torpor/protocol';
import type { Context } from 'hono';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { FileEntry, FileLocation, GuestFiles } from '../../guest/files.ts';
import { parseWith } from '../../validation/parse-with.ts';
import { accessSignal } from '../access-signal.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import type { AppEnvironment } from '../environment.ts';
import { receiveUpload } from '../multipart.ts';
import { bodyChunks } from '../request-body.ts';
import { streamedResponse } from '../streamed-response.ts';
import { sandboxParams } from './params.ts';

const TAG = 'Files';
const BINARY = { 'application/octet-stream': z.string().meta({ format: 'binary' }) };
const CONTENT = { 200: { description: 'The content of the file.', content: BINARY } };
const WRITTEN = { 204: { description: 'The file is written.' } };

const DOWNLOAD = defineEndpoint({
  method: 'get',
  path: '/v1/sandboxes/{id}/files',
  operationId: 'downloadFile',
  access: 'sandboxes.exec',
  summary: 'Read a file',
  tag: TAG,
  params: sandboxParams,
  query: rest.filePathQuerySchema,
  responses: CONTENT,
});

const UPLOAD = defineEndpoint({
  method: 'put',
  path: '/v1/sandboxes/{id}/files',
  operationId: 'uploadFile',
  access: 'sandboxes.exec',
  summary: 'Write a file; the body is its content, of any size',
  tag: TAG,
  params: sandboxParams,
  query: rest.filePathQuerySchema,
  streamedBody: BINARY,
  responses: WRITTEN,
});

const uploadForm = (path: string, operationId: string) =>
  defineEndpoint({
    method: 'post',
    path,
    operationId,
    access: 'sandboxes.exec',
    summary: 'Write a file from a multipart form, of any size',
    tag: TAG,
    params: sandboxParams,
    query: rest.uploadQuerySchema,
    streamedBody: { 'multipart/form-data': rest.uploadFormSchema },
    responses: WRITTEN,
  });

const UPLOAD_FORMS = [
  uploadForm('/v1/sandboxes/{id}/files/write', 'writeFile'),
  uploadForm('/v1/sandboxes/{id}/files/stream/write', 'writeFileStream'),
];

const readByPost = (path: string, operationId: string) =>
  defineEndpoint({
    method: 'post',
    path,
    operationId,
    access: 'sandboxes.exec',
    summary: 'Read a file',
    tag: TAG,
    params: sandboxParams,
    body: rest.pathRequestSchema,
    responses: CONTENT,
  });

const READS_BY_POST = [
  readByPost('/v1/sandboxes/{id}/files/read', 'readFile'),
  readByPost('/v1/sandboxes/{id}/files/stream/read', 'readFileStream'),
];

const LIST = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/files/list',
  operationId: 'listDirectory',
  access: 'sandboxes.exec',
  summary: 'List a directory',
  tag: TAG,
  params: sandboxParams,
  body: rest.listDirRequestSchema,
  responses: { 200: jsonResponse('The entries of the directory.', rest.fileListSchema) },
});

const MAKE_DIRECTORY = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/files/mkdir',
  operationId: 'makeDirectory',
  access: 'sandboxes.exec',
  summary: 'Create a directory and its parents',
  tag: TAG,
  params: sandboxParams,
  body: rest.pathRequestSchema,
  responses: { 200: jsonResponse('The directory.', rest.fileEntryResponseSchema) },
});

const REMOVE = defineEndpoint({
  method: 'post',
  path: '/v1/sandboxes/{id}/files/remove',
  operationId: 'removePath',
  access: 'sandboxes.exec',
  summary: 'Remove a file, or a directory with everything in it',
  tag: TAG,
  params: sandboxParams,
  body: rest.pathRequestSchema,
  responses: { 204: { description: 'The file or directory is removed.' } },
});

export function addFileRoutes(api: Api, files: GuestFiles, logger: Logger): void {
  addContentRoutes(api, files, logger);
  addEndpoint(api, LIST, async (c, { params, body }) => {
    const entries = await files.list(c.get('principal'), params.id, body);
    return c.json({ entries: entries.map(presentEntry) });
  });
  addEndpoint(api, MAKE_DIRECTORY, async (c, { params, body }) => {
    const entry = await files.makeDirectory(c.get('principal'), params.id, body);
    return c.json({ entry: presentEntry(entry) });
  });
  addEndpoint(api, REMOVE, async (c, { params, body }) => {
    await files.remove(c.get('principal'), params.id, body);
    return c.body(null, 204);
  });
}

function addContentRoutes(api: Api, files: GuestFiles, logger: Logger): void {
  const download = async (c: Context<AppEnvironment>, id: string, location: FileLocation) => {
    const content = await files.read(c.get('principal'), id, location, accessSignal(c));
    return streamedResponse(c, content, logger);
  };
  addEndpoint(api, DOWNLOAD, (c, { params, query }) => download(c, params.id, query));
  addEndpoint(api, UPLOAD, async (c, { params, query }) => {
    const signal = accessSignal(c);
    const content = bodyChunks(c.req.raw, signal);
    await files.write(c.get('principal'), params.id, query, content, signal);
    return c.body(null, 204);
  });
  for (const endpoint of UPLOAD_FORMS) {
    addEndpoint(api, endpoint, async (c, { params, query }) => {
      // Before the body is read, which may be large.
      await files.requireRunning(c.get('principal'), params.id);
      const signal = accessSignal(c);
      await receiveUpload(c.req.raw, signal, async ({ fields, content }) => {
        const location = parseWith(
          rest.filePathQuerySchema,
          { ...Object.fromEntries(fields), ...query },
          'form (the path must come before the file, or in the query)',
        );
        await files.write(c.get('principal'), params.id, location, content, signal);
      });
      return c.body(null, 204);
    });
  }
  for (const endpoint of READS_BY_POST) {
    addEndpoint(api, endpoint, (c, { params, body }) => download(c, params.id, body));
  }
}

function presentEntry(entry: FileEntry): rest.FileEntry {
  const { name, path, type, size, mode, permissions, owner, group, symlinkTarget } = entry;
  return {
    name,
    path,
    type,
    size,
    mode,
    permissions,
    owner,
    group,
    modified_at: entry.modifiedAt,
    ...(symlinkTarget === undefined ? {} : { symlink_target: symlinkTarget }),
  };
}
