import { pipeline } from 'node:stream/promises';
import {
  Busboy,
  type BusboyFileStream,
  type BusboyHeaders,
  type BusboyInstance,
} from '@fastify/busboy';
import { TorporError } from '@torpor/protocol';
import { bodyChunks } from './request-body.ts';

export interface Upload {
  /** The fields that came before the file. */
  readonly fields: ReadonlyMap<string, string>;
  readonly content: AsyncIterable<Uint8Array>;
}

const MAX_FIELD_BYTES = 8 * 1024;
const MAX_FIELDS = 8;

/**
 * Reads a `multipart/form-data` request with one file and passes the file to
 * `receive` as a stream: the request is read only as fast as the stream is.
 * Returns what `receive` returns. `signal` gives it up. Throws `invalid_request` for another kind of body,
 * for a form without a file named `file`, and for a truncated one.
 */
export async function receiveUpload<T>(
  request: Request,
  signal: AbortSignal,
  receive: (upload: Upload) => Promise<T>,
): Promise<T> {
  const contentType = request.headers.get('content-type') ?? '';
  if (!contentType.startsWith('multipart/form-data') || request.body === null) {
    throw new TorporError(
      'invalid_request',
      'The body must be multipart/form-data with the fields path and file.',
      { remedy: 'To send a file as it is, use PUT /v1/sandboxes/{id}/files?path=….' },
    );
  }
  return parse(bodyChunks(request, signal), { 'content-type': contentType }, receive);
}

async function parse<T>(
  body: AsyncIterable<Uint8Array>,
  headers: BusboyHeaders,
  receive: (upload: Upload) => Promise<T>,
): Promise<T> {
  const form = openForm(headers);
  const fields = new Map<string, string>();
  let file: BusboyFileStream | undefined;
  let received: Promise<T> | undefined;
  form.on('field', (name: string, value: string, nameCut: boolean, valueCut: boolean) => {
    if (nameCut || valueCut) {
      form.destroy(
        new TorporError(
          'too_large',
          `A form field has more than ${MAX_FIELD_BYTES} bytes; only the file may be long.`,
        ),
      );
    }
    fields.set(name, value);
  });
  form.on('file', (name: string, stream: BusboyFileStream) => {
    // Already given up; the parser still reads what it has buffered.
    if (form.destroyed) return void stream.resume();
    if (name !== 'file' || received !== undefined) {
      stream.resume();
      form.destroy(
        new TorporError('invalid_request', 'The form must have one file, in the field "file".'),
      );
      return;
    }
    // It is destroyed if the form is truncated; its reader gets the error.
    stream.on('error', () => undefined);
    file = stream;
    received = receive({ fields, content: stream });
    received.catch((error: unknown) => {
      stream.resume();
      form.destroy(TorporError.from(error));
    });
  });
  try {
    await pipeline(body, form);
  } catch (error) {
    // The reader of the file must not wait for more. If the reader has failed, that is why the
    // form was given up.
    file?.destroy(TorporError.from(error));
    await received;
    if (error instanceof TorporError) throw error;
    throw new TorporError('invalid_request', 'The multipart body is not complete.', {
      cause: error,
    });
  }
  if (received === undefined) {
    throw new TorporError('invalid_request', 'The form has no file in the field "file".');
  }
  return received;
}

function openForm(headers: BusboyHeaders): BusboyInstance {
  try {
    return new Busboy({
      headers,
      limits: { fieldSize: MAX_FIELD_BYTES, fields: MAX_FIELDS, files: 2, fileSize: Infinity },
    });
  } catch (error) {
    throw new TorporError('invalid_request', 'The multipart body has no boundary.', {
      cause: error,
    });
  }
}
