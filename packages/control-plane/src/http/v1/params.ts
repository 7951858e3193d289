import { rest } from '@torpor/protocol';
import { z } from 'zod';

/** Any string: one that no sandbox has is `not_found`, whatever its form. */
export const sandboxParams = z.object({ id: rest.sandboxIdSchema });

/** A process of a sandbox, handed over as what the selector means. */
export const processParams = sandboxParams.extend({
  selector: z
    .string()
    .regex(/^[A-Za-z0-9_.-]{1,64}$/, 'must be a pid or a tag')
    .transform(rest.parseProcessSelector)
    .meta({ description: 'A pid, or a tag.', example: 'web-server' }),
});

/** Any string, as for a sandbox. */
export const snapshotParams = z.object({ name: z.string() });
