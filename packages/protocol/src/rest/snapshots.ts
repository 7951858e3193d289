import { z } from 'zod';
import { TEMPLATE_TYPES } from '../template-types.ts';
import { pageQuerySchema } from './common.ts';
import { phaseTimingSchema, sandboxIdSchema, sandboxSchema, timeoutSecSchema } from './sandbox.ts';

/** Limit of the copies of one fork. */
export const MAX_FORK_COUNT = 100;

export const resumeSandboxSchema = z
  .strictObject({
    timeout_sec: timeoutSecSchema
      .optional()
      .meta({ description: 'A new idle timeout in seconds; unchanged if omitted.' }),
  })
  .meta({ id: 'ResumeSandbox' });

export type ResumeSandbox = z.infer<typeof resumeSandboxSchema>;

export const forkSandboxSchema = z
  .strictObject({
    count: z.int().min(1).max(MAX_FORK_COUNT).default(1).meta({ description: 'Number of copies.' }),
    timeout_sec: timeoutSecSchema
      .optional()
      .meta({ description: "Idle timeout of the copies in seconds; the source's if omitted." }),
  })
  .meta({ id: 'ForkSandbox' });

export type ForkSandbox = z.infer<typeof forkSandboxSchema>;

export const forkResultSchema = z
  .strictObject({
    children: z
      .array(
        z.strictObject({
          sandbox: sandboxSchema.optional(),
          error: z.strictObject({ code: z.string(), message: z.string() }).optional(),
        }),
      )
      .meta({ description: 'One result for each copy: the sandbox, or the error.' }),
    timings: z.array(phaseTimingSchema),
  })
  .meta({ id: 'ForkResult' });

export type ForkResult = z.infer<typeof forkResultSchema>;

/** A name that a user may choose: also valid as a file name and in a URL. */
export const snapshotNameSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/,
    'must be 1 to 64 of [A-Za-z0-9._-] and begin with a letter or digit',
  )
  .meta({ example: 'warm-python' });

export const createSnapshotSchema = z
  .strictObject({
    sandbox_id: sandboxIdSchema,
    name: snapshotNameSchema
      .optional()
      .meta({ description: '`template-` and eight hexadecimal digits if omitted.' }),
  })
  .meta({ id: 'CreateSnapshot' });

export type CreateSnapshot = z.infer<typeof createSnapshotSchema>;

export const createSnapshotQuerySchema = z.strictObject({
  overwrite: z
    .enum(['true', 'false'])
    .optional()
    .meta({ description: 'Replace a snapshot of this name.' }),
});

export const listSnapshotsQuerySchema = pageQuerySchema.extend({
  type: z.enum(TEMPLATE_TYPES).optional().meta({
    description:
      '`base`: the images of the platform; `snapshot`: those of the team. Both if omitted.',
  }),
});

export const snapshotSchema = z
  .strictObject({
    name: z.string(),
    type: z.enum(TEMPLATE_TYPES),
    vcpus: z.int().optional().meta({ description: 'Fixed for every sandbox made from it.' }),
    memory_mb: z.int().optional().meta({ description: 'Fixed for every sandbox made from it.' }),
    size_bytes: z.int().meta({ description: 'Space that it takes on its host.' }),
    created_at: z.iso.datetime(),
    platform: z
      .boolean()
      .meta({ description: 'Whether it is an image of the platform, not a snapshot of the team.' }),
    metadata: z
      .record(z.string(), z.string())
      .optional()
      .meta({ description: 'Versions of the software that it was made with.' }),
    timings: z
      .array(phaseTimingSchema)
      .optional()
      .meta({ description: 'Phases of the operation; only in the response to it.' }),
  })
  .meta({ id: 'Snapshot' });

export type Snapshot = z.infer<typeof snapshotSchema>;

export const snapshotListSchema = z.array(snapshotSchema);
