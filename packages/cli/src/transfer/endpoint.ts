import { TorporError } from '@torpor/sdk/basics';

/** One side of a copy: a local path, or one in a sandbox. */
export type Endpoint =
  | { readonly kind: 'local'; readonly path: string }
  | { readonly kind: 'sandbox'; readonly id: string; readonly path: string };

export interface Transfer {
  readonly from: Endpoint;
  readonly to: Endpoint;
}

/**
 * `ID:PATH` is in a sandbox, and an empty path is the home directory; everything else is a local
 * path. A local path with a colon needs a slash in front of the colon: `./a:b`.
 */
export function parseEndpoint(text: string): Endpoint {
  const colon = text.indexOf(':');
  const slash = text.indexOf('/');
  if (colon === -1 || (slash !== -1 && slash < colon)) return { kind: 'local', path: text };
  const id = text.slice(0, colon);
  const path = text.slice(colon + 1);
  if (id === '') {
    throw new TorporError('invalid_request', `"${text}" is neither a path nor ID:PATH.`, {
      remedy: 'Put the id of a sandbox in front of the colon, or ./ for a file of that name.',
    });
  }
  return { kind: 'sandbox', id, path: path === '' ? '.' : path };
}

/** Parses a pair of arguments. Throws `invalid_request` unless at least one side is in a sandbox. */
export function parseTransfer(source: string, destination: string): Transfer {
  const from = parseEndpoint(source);
  const to = parseEndpoint(destination);
  if (from.path === '' || to.path === '') {
    throw new TorporError('invalid_request', 'A path to copy from or to is empty.');
  }
  if ([from, to].some(({ kind, path }) => kind === 'local' && path === '-')) {
    throw new TorporError(
      'invalid_request',
      'cp neither writes nor reads archives, so "-" has no meaning.',
      {
        remedy:
          'For standard input or output, give /dev/stdin or /dev/stdout; for a file named -, give ./-.',
      },
    );
  }
  if (from.kind === 'local' && to.kind === 'local') {
    throw new TorporError('invalid_request', 'Both paths are on this machine.', {
      remedy: 'Write one of them as ID:PATH.',
    });
  }
  return { from, to };
}

/** Formats an endpoint as on a command line. */
export function formatEndpoint(endpoint: Endpoint): string {
  return endpoint.kind === 'local' ? endpoint.path : `${endpoint.id}:${endpoint.path}`;
}
