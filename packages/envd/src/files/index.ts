import type { IncomingMessage, ServerResponse } from 'node:http';
import type { EnvdContext } from '../context.ts';
import { sendError } from '../http/response.ts';
import { handleCompose } from './compose.ts';
import { handleDownload } from './download.ts';
import { HttpError } from './http-error.ts';
import { handleUpload } from './upload.ts';

export { type FileOperation, type SignedRequest, signatureOf } from './signature.ts';

/**
 * Serves `/files` and `/files/compose`, wire-compatible with E2B. The former checks the access
 * token or the signature itself; the latter relies on the server's check of the token. Never
 * rejects: a failure after the response has begun closes the connection.
 */
export async function handleFiles(
  request: IncomingMessage,
  response: ServerResponse,
  context: EnvdContext,
): Promise<void> {
  try {
    await route(request, response, context);
  } catch (error) {
    if (response.headersSent) return void response.destroy();
    const { status, message } = HttpError.from(error);
    for (const name of HEADERS_OF_A_FILE) response.removeHeader(name);
    sendError(response, status, message);
    // The rest of the request is read and dropped, so that the client gets the response.
    request.unpipe();
    request.resume();
  }
}

const HEADERS_OF_A_FILE = [
  'Content-Disposition',
  'Content-Encoding',
  'ETag',
  'Last-Modified',
  'Accept-Ranges',
];

function route(
  request: IncomingMessage,
  response: ServerResponse,
  context: EnvdContext,
): Promise<void> {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://envd');
  const method = request.method ?? 'GET';
  if (pathname === '/files') {
    if (method === 'GET' || method === 'HEAD') {
      return handleDownload(request, response, searchParams, context);
    }
    if (method === 'POST') return handleUpload(request, response, searchParams, context);
  } else if (pathname === '/files/compose') {
    if (method === 'POST') return handleCompose(request, response, context);
  } else {
    throw new HttpError(404, `there is no ${pathname}`);
  }
  throw new HttpError(405, `${pathname} does not support ${method}`);
}
