/** Where a page ends, as a token that clients send back for the next one. */
import { isId, type rest, TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import { z } from 'zod';
import type { Cursor, Page } from '../../database/page.ts';
import { textIssue } from '../../validation/text.ts';

/** Positions in one list. Its name is in the tokens, so that those of another list are refused. */
export interface Positions<P> {
  readonly list: string;
  readonly schema: z.ZodType<P>;
}

const NEXT_TOKEN_HEADER = 'X-Next-Token';
const DEFAULT_LIMIT = 200;

/** Positions in a list that is newest first. */
export function cursorsOf(list: string, kind: Parameters<typeof isId>[0]): Positions<Cursor> {
  const schema = z.strictObject({
    createdAt: z.iso.datetime().transform((text) => new Date(text)),
    id: z.string().refine((id) => isId(kind, id)),
  });
  return { list, schema };
}

export function encodePageToken<P>({ list }: Positions<P>, position: P): string {
  return Buffer.from(JSON.stringify([list, position])).toString('base64url');
}

/** Throws `invalid_request` for a token that {@link encodePageToken} did not create for the list. */
export function decodePageToken<P>({ list, schema }: Positions<P>, token: string): P {
  try {
    const [of, position] = z
      .tuple([z.string(), z.unknown()])
      .parse(JSON.parse(Buffer.from(token, 'base64url').toString('utf8')));
    if (of === list && textIssue(position) === undefined) return schema.parse(position);
  } catch {
    // Falls through to the one error.
  }
  throw new TorporError('invalid_request', 'next_token was not returned by this API.');
}

export interface ReadPage<T> {
  readonly entries: readonly T[];
  readonly isLast: boolean;
}

/**
 * The entries of a list whose body is an array: all of them, or those of a page if the query
 * has a limit or a token. If there are more, the header `X-Next-Token` has the next token.
 */
export async function readPage<P, T>(
  c: Context,
  positions: Positions<P>,
  query: rest.PageQuery,
  read: (page: Page<P>) => Promise<readonly T[]>,
  positionOf: (entry: T) => P,
): Promise<ReadPage<T>> {
  const { limit: given, next_token: token } = query;
  if (given === undefined && token === undefined) {
    return { entries: await read({ after: undefined, limit: undefined }), isLast: true };
  }
  const limit = given ?? DEFAULT_LIMIT;
  const after = token === undefined ? undefined : decodePageToken(positions, token);
  // One more shows whether there is another page.
  const found = await read({ after, limit: limit + 1 });
  const entries = found.slice(0, limit);
  const last = entries.at(-1);
  if (found.length === entries.length || last === undefined) return { entries, isLast: true };
  c.header(NEXT_TOKEN_HEADER, encodePageToken(positions, positionOf(last)));
  return { entries, isLast: false };
}
