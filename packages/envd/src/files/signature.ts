import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { USER_HEADER } from '@torpor/protocol';
import { type AccessToken, equalInConstantTime } from '../access-token.ts';
import type { EnvdContext } from '../context.ts';
import type { User } from '../users.ts';
import { HttpError } from './http-error.ts';

export type FileOperation = 'read' | 'write';

export interface SignedRequest {
  /** The `path` parameter exactly as sent; relative ones are not resolved. */
  readonly path: string;
  readonly operation: FileOperation;
  /** The `username` parameter; empty for the default user. */
  readonly username: string;
  /** Unix time in seconds after which the signature is invalid. */
  readonly expiration?: number | undefined;
}

/** The signature that E2B's SDKs put into upload and download URLs. */
export function signatureOf(request: SignedRequest, accessToken: string): string {
  const { path, operation, username, expiration } = request;
  const fields = [path, operation, username, accessToken];
  if (expiration !== undefined) fields.push(String(expiration));
  const digest = createHash('sha256').update(fields.join(':')).digest('base64');
  return `v1_${digest.replace(/=+$/, '')}`;
}

/**
 * Accepts a request for a file if the sandbox has no token yet, if it has the token in
 * `X-Access-Token`, or if its query is signed with it. Throws HttpError 401, or 400 for an
 * expiration that is not a number.
 */
export function authorizeFileRequest(
  request: IncomingMessage,
  query: URLSearchParams,
  operation: FileOperation,
  accessToken: AccessToken,
): void {
  const secret = accessToken.value;
  if (secret === undefined) return;
  const [token] = request.headersDistinct['x-access-token'] ?? [];
  if (token !== undefined && token !== '') {
    if (accessToken.allows(token)) return;
    throw new HttpError(401, 'access token present in header but does not match');
  }
  const signature = query.get('signature');
  if (signature === null) throw new HttpError(401, 'missing signature query parameter');
  const expiration = expirationOf(query);
  const expected = signatureOf(
    {
      path: query.get('path') ?? '',
      operation,
      username: query.get('username') ?? '',
      expiration,
    },
    secret,
  );
  if (!equalInConstantTime(signature, expected)) throw new HttpError(401, 'invalid signature');
  if (expiration !== undefined && expiration < Math.floor(Date.now() / 1000)) {
    throw new HttpError(401, 'signature is already expired');
  }
}

/**
 * The user of a request for a file: as for other calls ({@link EnvdContext.userOfCall}), with
 * the parameter `username` for E2B's. A signature covers only the latter, so a signed URL
 * cannot be used with the header.
 */
export function userOfFileRequest(
  request: IncomingMessage,
  query: URLSearchParams,
  context: EnvdContext,
): User {
  const [identity] = request.headersDistinct[USER_HEADER] ?? [];
  if (identity !== undefined && !query.has('signature')) {
    return context.users.resolveIdentity(identity);
  }
  return context.resolveUser(query.get('username') ?? undefined);
}

function expirationOf(query: URLSearchParams): number | undefined {
  const text = query.get('signature_expiration');
  if (text === null) return undefined;
  if (!/^-?\d{1,15}$/.test(text)) {
    throw new HttpError(400, 'signature_expiration is not a Unix time in seconds');
  }
  return Number(text);
}
