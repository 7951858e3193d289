import type { Stats } from 'node:fs';
import { open, rm, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { basename } from 'node:path';
import * as z from 'zod';
import type { EnvdContext } from '../context.ts';
import { isMissing } from '../filesystem/errors.ts';
import { sendJson } from '../http/response.ts';
import { readAll } from './content.ts';
import { HttpError } from './http-error.ts';
import { chunksOf, openBody } from './request-body.ts';
import { storeFile } from './store-file.ts';
import { resolveFilePath, type StoredFile } from './upload.ts';

const MAX_BODY_BYTES = 1024 * 1024;

const composeSchema = z.strictObject({
  source_paths: z.array(z.string()).min(1, 'source_paths must not be empty'),
  destination: z.string().min(1, 'destination is required'),
  username: z.string().optional(),
});

/**
 * `POST /files/compose`: joins files, in the order given, into one that belongs to
 * the user, and removes them when that has succeeded.
 */
export async function handleCompose(
  request: IncomingMessage,
  response: ServerResponse,
  context: EnvdContext,
): Promise<void> {
  const body = composeSchema.safeParse(await readJson(request));
  if (!body.success) {
    throw new HttpError(400, `invalid request body: ${z.prettifyError(body.error)}`);
  }
  const user = context.resolveUser(body.data.username);
  const destination = resolveFilePath(context, body.data.destination, user);
  const existing = await stat(destination).catch(() => undefined);
  const sources: string[] = [];
  for (const requested of body.data.source_paths) {
    const source = context.resolvePath(requested, user);
    const stats = await statSource(source, requested);
    if (source === destination || isSameFile(stats, existing)) {
      throw new HttpError(400, `source path "${requested}" cannot be the same as destination`);
    }
    sources.push(source);
  }
  await storeFile(destination, concatenated(sources), { user, metadata: {} });
  for (const source of new Set(sources)) await rm(source, { force: true });
  const stored: StoredFile = { name: basename(destination), path: destination, type: 'file' };
  sendJson(response, 200, stored);
}

async function* concatenated(sources: readonly string[]): AsyncGenerator<Buffer> {
  for (const source of sources) {
    await using file = await open(source);
    yield* readAll(file);
  }
}

async function statSource(path: string, requested: string): Promise<Stats> {
  let stats: Stats;
  try {
    stats = await stat(path);
  } catch (error) {
    if (isMissing(error)) throw new HttpError(404, `source file not found: ${requested}`, error);
    throw error;
  }
  if (!stats.isFile()) {
    throw new HttpError(400, `source path is not a regular file: ${requested}`);
  }
  return stats;
}

function isSameFile(left: Stats, right: Stats | undefined): boolean {
  return left.dev === right?.dev && left.ino === right.ino;
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of chunksOf(openBody(request))) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) {
      throw new HttpError(413, `the request body has more than ${MAX_BODY_BYTES} bytes`);
    }
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (error) {
    throw new HttpError(400, `invalid request body: ${String(error)}`, error);
  }
}
