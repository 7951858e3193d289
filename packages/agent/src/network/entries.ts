import type { ToolObject } from '@torpor/linux';
import type { z } from 'zod';

/**
 * Those of the objects that ip(8) or nft(8) listed that have what the schema asks for. Others
 * are things that we do not know, such as a route without a destination; never ours.
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
