import type { ToolObject } from '@torpor/linux';
import type { z } from 'zod';

/**
 * The objects listed by ip(8) or nft(8) that match the schema. Others are of unknown kinds,
 * such as a route without a destination; never ours.
 */
export function entriesOf<T extends z.ZodType>(
  schema: T,
  objects: readonly ToolObject[],
): z.output<T>[] {
  return objects.flatMap((object) => {
    const { success, data } = schema.safeParse(object);
    return success ? [data] : [];
  });
}
