import { rest } from '@torpor/protocol';
import { z } from 'zod';

/** Any string: an id that no sandbox has is `not_found`, even if malformed. */
export const sandboxParams = z.object({ id: rest.sandboxIdSchema });

/** A process of a sandbox, with its selector parsed. */
export const processParams = sandboxParams.extend({
  selector: z
    .string()
    .regex(/^[A-Za-z0-9_.-]{1,64}$/, 'must be a pid or a tag')
    .transform(rest.parseProcessSelector)
    .meta({ description: 'A pid, or a tag.', example: 'web-server' }),
});

/** Any string, as for a sandbox. */
export const snapshotParams = z.object({ name: z.string() });
