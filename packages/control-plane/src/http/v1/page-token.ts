import { isId, TorporError } from '@torpor/protocol';
import { z } from 'zod';
import type { Cursor } from '../../sandboxes/repository.ts';

const cursorSchema = z.tuple([z.number(), z.string()]);

/** The position in a list, as a token that clients send back. */
export function encodeCursor(cursor: Cursor): string {
  return Buffer.from(JSON.stringify([cursor.createdAt.getTime(), cursor.id])).toString('base64url');
}

/** Throws `invalid_request` for a token that {@link encodeCursor} did not create. */
export function decodeCursor(token: string): Cursor {
  try {
    const [time, id] = cursorSchema.parse(
      JSON.parse(Buffer.from(token, 'base64url').toString('utf8')),
    );
    const createdAt = new Date(time);
    if (isId('sandbox', id) && !Number.isNaN(createdAt.getTime())) return { createdAt, id };
  } catch {
    // Falls through to the one error.
  }
  throw new TorporError('invalid_request', 'next_token was not returned by this API.');
}
