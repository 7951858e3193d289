import type { IncomingMessage, ServerResponse } from 'node:http';
import { basename } from 'node:path';
import type { Readable } from 'node:stream';
import type { EnvdContext } from '../context.ts';
import { sendJson } from '../http/response.ts';
import type { User } from '../users.ts';
import { HttpError } from './http-error.ts';
import { metadataOf } from './metadata-headers.ts';
import { readFileParts } from './multipart.ts';
import { chunksOf, openBody } from './request-body.ts';
import { authorizeFileRequest, userOfFileRequest } from './signature.ts';
import { storeFile } from './store-file.ts';

/** A stored file, as E2B's envd returns it. */
export interface StoredFile {
  readonly name: string;
  readonly path: string;
  readonly type: 'file';
  readonly metadata?: Readonly<Record<string, string>>;
}

/** `POST /files`: one file as `application/octet-stream`, or several as `multipart/form-data`. */
export async function handleUpload(
  request: IncomingMessage,
  response: ServerResponse,
  query: URLSearchParams,
  context: EnvdContext,
): Promise<void> {
  authorizeFileRequest(request, query, 'write', context.accessToken);
  const upload = new Upload(
    context,
    userOfFileRequest(request, query, context),
    metadataOf(request),
  );
  const contentType = request.headers['content-type'] ?? '';
  const mediaType = contentType.split(';', 1)[0]?.trim().toLowerCase() ?? '';
  const path = query.get('path');
  if (mediaType === 'application/octet-stream') {
    if (path === null) {
      throw new HttpError(400, 'path query parameter is required for raw body upload');
    }
    await upload.store(path, openBody(request));
  } else if (mediaType === 'multipart/form-data') {
    await readFileParts(openBody(request), contentType, (part) => {
      const partPath = path ?? part.filename;
      if (partPath === undefined) {
        throw new HttpError(400, 'a file part needs a file name, or the request a path');
      }
      return upload.store(partPath, part.body);
    });
  } else {
    throw new HttpError(
      400,
      `unsupported content type: ${contentType}, expected multipart/form-data or application/octet-stream`,
    );
  }
  sendJson(response, 200, upload.stored);
}

class Upload {
  readonly stored: StoredFile[] = [];
  readonly #context: EnvdContext;
  readonly #user: User;
  readonly #metadata: Readonly<Record<string, string>>;

  constructor(context: EnvdContext, user: User, metadata: Readonly<Record<string, string>>) {
    this.#context = context;
    this.#user = user;
    this.#metadata = metadata;
  }

  async store(requested: string, body: Readable): Promise<void> {
    const path = resolveFilePath(this.#context, requested, this.#user);
    if (this.stored.some((file) => file.path === path)) {
      throw new HttpError(
        400,
        `you cannot upload multiple files to the same path '${path}' in one upload request, only the first specified file was uploaded`,
      );
    }
    const options = { user: this.#user, metadata: this.#metadata };
    await storeFile(path, chunksOf(body), options).catch((error: unknown) => {
      throw HttpError.from(error, `cannot write ${path}`);
    });
    const metadata = Object.keys(this.#metadata).length === 0 ? {} : { metadata: this.#metadata };
    this.stored.push({ name: basename(path), path, type: 'file', ...metadata });
  }
}

/** Throws HttpError 400 for a path that can only be a directory. */
export function resolveFilePath(context: EnvdContext, requested: string, user: User): string {
  const path = context.resolvePath(requested, user);
  if (requested.endsWith('/')) throw new HttpError(400, `path is a directory: ${path}`);
  return path;
}
