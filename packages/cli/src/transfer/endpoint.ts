import { TorporError } from '@torpor/protocol';

/** One side of a copy: a path here, or one in a sandbox. */
export type Endpoint =
  | { readonly kind: 'local'; readonly path: string }
  | { readonly kind: 'sandbox'; readonly id: string; readonly path: string };

export type Transfer =
  | { readonly kind: 'upload'; readonly from: string; readonly id: string; readonly to: string }
  | { readonly kind: 'download'; readonly id: string; readonly from: string; readonly to: string };

/**
 * `ID:PATH` is in a sandbox; everything else is a path here. A local path with a
 * colon is written with a slash in front of the colon: `./a:b`.
 */
export function parseEndpoint(text: string): Endpoint {
  const colon = text.indexOf(':');
  const slash = text.indexOf('/');
  if (colon === -1 || (slash !== -1 && slash < colon)) return { kind: 'local', path: text };
  const id = text.slice(0, colon);
  const path = text.slice(colon + 1);
  if (id === '' || path === '') {
    throw new TorporError('invalid_request', `"${text}" is neither a path nor ID:PATH.`);
  }
  return { kind: 'sandbox', id, path };
}

/** What a pair of arguments means. Throws `invalid_request` unless exactly one side is a sandbox's. */
export function parseTransfer(source: string, destination: string): Transfer {
  const from = parseEndpoint(source);
  const to = parseEndpoint(destination);
  if (from.path === '' || to.path === '') {
    throw new TorporError('invalid_request', 'A path to copy from or to is empty.');
  }
  if (from.kind === 'local' && to.kind === 'sandbox') {
    return { kind: 'upload', from: from.path, id: to.id, to: to.path };
  }
  if (from.kind === 'sandbox' && to.kind === 'local') {
    return { kind: 'download', id: from.id, from: from.path, to: to.path };
  }
  throw new TorporError(
    'invalid_request',
    from.kind === 'local'
      ? 'Both paths are on this machine.'
      : 'Both paths are in sandboxes; copy through a file on this machine.',
    { remedy: 'Write one of them as ID:PATH.' },
  );
}
