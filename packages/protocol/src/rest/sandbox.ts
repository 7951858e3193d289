import { z } from 'zod';
import { SANDBOX_DEFAULTS } from '../sandbox-defaults.ts';
import { SANDBOX_STATES } from '../sandbox-state.ts';
import { environmentSchema } from './common.ts';
import { hostTagSchema, MAX_HOST_TAGS } from './hosts.ts';

export const sandboxIdSchema = z.string().meta({ example: 'sb4k2v9q0c7m1x8z5t3a6w' });

const templateNameSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$/, 'must be the name of a template')
  .meta({ example: 'base' });

/** The user's labels. */
const sandboxMetadataSchema = z
  .record(z.string().min(1).max(128), z.string().max(4096))
  .refine((labels) => Object.keys(labels).length <= 64, 'must have at most 64 entries')
  .meta({ example: { project: 'demo' } });

// Limits with a unit name it in their messages, which also appear for fields in other units.
export const timeoutSecSchema = z.int().min(0).max(31_536_000, 'must be at most 31536000 s (365d)');

const diskSizeSchema = z
  .int()
  .min(64, 'must be at least 64 MiB')
  .max(1_048_576, 'must be at most 1048576 MiB (1 TiB)');

export const createSandboxSchema = z
  .strictObject({
    template: templateNameSchema.default(SANDBOX_DEFAULTS.template),
    // The allowed range of vCPUs and memory depends on the host; the service checks it.
    vcpus: z
      .int()
      .optional()
      .meta({
        description: `Virtual CPUs: 1 to what the host allows, ${SANDBOX_DEFAULTS.vcpus} if omitted. Fixed by a template that is a snapshot.`,
      }),
    memory_mb: z
      .int()
      .optional()
      .meta({
        description: `Memory in MiB: 128 to what the host has, ${SANDBOX_DEFAULTS.memoryMb} if omitted. Fixed by a template that is a snapshot.`,
      }),
    timeout_sec: timeoutSecSchema.default(SANDBOX_DEFAULTS.timeoutSec).meta({
      description: 'Seconds without activity after which it is destroyed or paused; 0 means never.',
    }),
    auto_pause: z.boolean().default(false).meta({
      description:
        'After `timeout_sec` without activity, which must be set then, it is paused, not destroyed.',
    }),
    disk_size_mb: diskSizeSchema.optional().meta({
      description:
        "Size of the writable disk in MiB; the host's default if omitted. Fixed by a template that is a snapshot.",
    }),
    metadata: sandboxMetadataSchema.optional(),
    envs: environmentSchema.optional().meta({
      description: 'Environment of every process in the sandbox. Never stored by the API.',
    }),
    allow_internet: z
      .boolean()
      .default(true)
      .meta({ description: 'Whether the sandbox may reach the internet.' }),
    host_tags: z
      .array(hostTagSchema)
      .max(MAX_HOST_TAGS)
      .default([])
      .meta({
        description: 'Tags that the host of the sandbox must have: every one of them.',
        example: ['gpu'],
      }),
  })
  .refine((request) => !request.auto_pause || request.timeout_sec > 0, {
    path: ['auto_pause'],
    message: 'needs an idle timeout, after which to pause',
  })
  .meta({ id: 'CreateSandbox' });

export type CreateSandbox = z.infer<typeof createSandboxSchema>;

export const phaseTimingSchema = z.strictObject({
  phase: z.string(),
  milliseconds: z.number(),
});

export const sandboxSchema = z
  .strictObject({
    id: sandboxIdSchema,
    status: z.enum(SANDBOX_STATES).meta({
      description:
        '`unreachable`: its host does not respond, and it may still be running. `missing`: its host does not have it.',
    }),
    reason: z.string().optional().meta({
      description: 'Why it is in this state; set in states such as `error` and `unreachable`.',
    }),
    template: templateNameSchema,
    vcpus: z.int(),
    memory_mb: z.int(),
    disk_size_mb: z.int().optional(),
    timeout_sec: z.int(),
    auto_pause: z.boolean(),
    allow_internet: z.boolean(),
    build_id: z.string().optional().meta({
      description: 'The build that holds its last saved state, from which it is or can be resumed.',
    }),
    host_ip: z
      .string()
      .optional()
      .meta({ description: 'Its IP address, which only root on its host can reach.' }),
    created_at: z.iso.datetime(),
    started_at: z.iso.datetime().optional(),
    last_active_at: z.iso.datetime().optional(),
    last_updated: z.iso.datetime(),
    ended_at: z.iso.datetime().optional(),
    metadata: sandboxMetadataSchema,
    versions: z
      .record(z.string(), z.string())
      .meta({ description: 'envd_version, kernel_version, vmm, vmm_version, agent_version.' }),
    timings: z
      .array(phaseTimingSchema)
      .optional()
      .meta({ description: 'Phases of the operation; only in the response to it.' }),
  })
  .meta({ id: 'Sandbox' });

export type Sandbox = z.infer<typeof sandboxSchema>;

/** Query of the list. `metadata` is given once per label, as `key=value`. */
export const listSandboxesQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(1000).default(100),
  next_token: z.string().max(512).optional(),
  state: z.string().optional().meta({
    description: 'Comma-separated states; all but `stopped` if omitted.',
    example: 'running,paused',
  }),
  template: templateNameSchema.optional(),
  metadata: z
    .union([z.string(), z.array(z.string())])
    .optional()
    .meta({ description: 'A label `key=value` that it must have; may be repeated.' }),
});

export type ListSandboxesQuery = z.infer<typeof listSandboxesQuerySchema>;

export const sandboxListSchema = z
  .strictObject({
    sandboxes: z.array(sandboxSchema),
    next_token: z
      .string()
      .optional()
      .meta({ description: 'Pass it as `next_token` for the next page; not set on the last.' }),
  })
  .meta({ id: 'SandboxList' });

export type SandboxList = z.infer<typeof sandboxListSchema>;
