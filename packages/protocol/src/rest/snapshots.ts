import { z } from 'zod';
import { isId } from '../ids.ts';
import { TEMPLATE_TYPES } from '../template-types.ts';
import { environmentSchema, pageQuerySchema } from './common.ts';
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

const MAX_DEFAULT_ENV_BYTES = 32 * 1024;

const defaultUserSchema = z
  .string()
  .regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'must be the name of a user of the guest')
  .meta({ example: 'user' });

const defaultEnvSchema = environmentSchema
  .refine(
    (env) => new TextEncoder().encode(JSON.stringify(env)).length <= MAX_DEFAULT_ENV_BYTES,
    `must be at most ${MAX_DEFAULT_ENV_BYTES} bytes`,
  )
  .meta({ example: { LANG: 'C.UTF-8' } });

export const createSnapshotSchema = z
  .strictObject({
    sandbox_id: sandboxIdSchema.refine((id) => isId('sandbox', id), 'must be the id of a sandbox'),
    name: snapshotNameSchema
      .optional()
      .meta({ description: '`template-` and eight hexadecimal digits if omitted.' }),
    default_user: defaultUserSchema.optional().meta({
      description:
        'Who runs programs in sandboxes made from it, unless a request says otherwise; as for the source if omitted.',
    }),
    default_env: defaultEnvSchema.optional().meta({
      description:
        'Environment of sandboxes made from it, under that of their creation. Stored and shown, so not for secrets; as for the source if omitted.',
    }),
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
      '`base`: images; `snapshot`: snapshots of the team and of the platform. Both if omitted.',
  }),
});

const FIXED = 'Fixed for every sandbox made from it.';

export type ListSnapshotsQuery = z.infer<typeof listSnapshotsQuerySchema>;

export const templateSchema = z
  .strictObject({
    name: z.string(),
    type: z.enum(TEMPLATE_TYPES),
    vcpus: z.int().optional().meta({ description: FIXED }),
    memory_mb: z.int().optional().meta({ description: FIXED }),
    disk_size_mb: z.int().optional().meta({ description: FIXED }),
    size_bytes: z.int().meta({ description: 'Space that it takes on its host.' }),
    build_id: z.string().optional().meta({ description: 'The build that it names.' }),
    default_user: z.string().optional().meta({
      description: 'Who runs programs in sandboxes made from it; who the image says if not set.',
    }),
    default_env: z
      .record(z.string(), z.string())
      .optional()
      .meta({ description: 'Environment of sandboxes made from it.' }),
    created_at: z.iso.datetime(),
    platform: z.boolean().meta({
      description: 'Whether it belongs to the platform: every team can use it, and none delete it.',
    }),
    metadata: z
      .record(z.string(), z.string())
      .optional()
      .meta({ description: 'Versions of the software that it was made with.' }),
  })
  .meta({ id: 'Template' });

export type Template = z.infer<typeof templateSchema>;

export const templateListSchema = z.array(templateSchema);

export const snapshotSchema = templateSchema
  .extend({
    timings: z
      .array(phaseTimingSchema)
      .optional()
      .meta({ description: 'Phases of the operation; only in the response to it.' }),
  })
  .meta({ id: 'Snapshot' });

export type Snapshot = z.infer<typeof snapshotSchema>;

export const snapshotListSchema = z.array(snapshotSchema);
