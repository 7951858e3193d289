import { z } from 'zod';
import { SANDBOX_STATES } from '../sandbox-state.ts';
import { displayNameSchema } from './common.ts';

const HOST_TYPES = ['regular', 'team'] as const;
const HOST_STATUSES = ['pending', 'online', 'unreachable'] as const;
export const MAX_HOST_TAGS = 64;

const nameSchema = displayNameSchema(64).meta({ example: 'rack-3' });

export const hostTagSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/, 'must be 1 to 64 of [A-Za-z0-9._:-]')
  .meta({ example: 'gpu' });

const typeSchema = z.enum(HOST_TYPES).meta({
  description:
    '`team`: only for sandboxes of the team; `regular`: of the platform, for every team.',
});

export const createHostSchema = z
  .strictObject({
    name: nameSchema,
    type: typeSchema.default('regular'),
    tags: z.array(hostTagSchema).max(MAX_HOST_TAGS).default([]),
  })
  .meta({ id: 'CreateHost' });

export const updateHostSchema = z
  .strictObject({
    name: nameSchema.optional(),
    draining: z.boolean().optional().meta({
      description:
        '`true`: no new sandboxes are placed on it, and those that it has are not copied. They stay, and can be resumed.',
    }),
  })
  .meta({ id: 'UpdateHost' });

export const hostSchema = z
  .strictObject({
    id: z.string(),
    name: z.string(),
    type: z.enum(HOST_TYPES),
    team_id: z.string().optional().meta({ description: 'Of a host of a team.' }),
    status: z.enum(HOST_STATUSES).meta({
      description:
        '`pending`: no machine has joined; `unreachable`: it has sent no heartbeat for a while.',
    }),
    draining: z.boolean(),
    tags: z.array(z.string()),
    address: z.string().optional().meta({
      description: 'Where control planes reach its agent. Not set for the host of a `torpor up`.',
    }),
    arch: z.string().optional(),
    vcpus: z.int().optional(),
    memory_mb: z.int().optional().meta({ description: 'What sandboxes may have in all.' }),
    disk_mb: z.int().optional(),
    free_disk_mb: z.int().optional(),
    builds: z.int().optional().meta({ description: 'How many builds it has.' }),
    agent_version: z.string().optional(),
    last_heartbeat_at: z.iso.datetime().optional(),
    certificate_expires_at: z.iso
      .datetime()
      .optional()
      .meta({ description: 'Its agent renews the certificate long before.' }),
    created_by: z.string().optional(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .meta({ id: 'Host' });

export type Host = z.infer<typeof hostSchema>;

export const hostListSchema = z.array(hostSchema);

export const hostTokenSchema = z
  .strictObject({
    token: z.string().meta({ description: 'For one machine; shown only here.' }),
    expires_at: z.iso.datetime(),
    join_url: z.string().meta({ description: 'Where the agent finds the control plane.' }),
  })
  .meta({ id: 'HostToken' });

export type HostToken = z.infer<typeof hostTokenSchema>;

export const createdHostSchema = hostTokenSchema
  .extend({ host: hostSchema })
  .meta({ id: 'CreatedHost' });

export type CreatedHost = z.infer<typeof createdHostSchema>;

export const hostDeletePreviewSchema = z
  .strictObject({
    host: hostSchema,
    sandbox_ids: z
      .array(z.string())
      .meta({ description: 'The sandboxes that are not stopped: paused ones too.' }),
    sandboxes: z
      .array(z.strictObject({ id: z.string(), status: z.enum(SANDBOX_STATES) }))
      .meta({ description: 'The same with their states.' }),
    snapshots: z.array(z.string()).meta({ description: 'The snapshots that no other host has.' }),
  })
  .meta({ id: 'HostDeletePreview' });

export type HostDeletePreview = z.infer<typeof hostDeletePreviewSchema>;

export const deleteHostQuerySchema = z.strictObject({
  force: z
    .enum(['true', 'false'])
    .default('false')
    .transform((text) => text === 'true')
    .meta({ description: '`true`: what the host has is given up.' }),
});

export const hostTagBodySchema = z.strictObject({ tag: hostTagSchema }).meta({ id: 'HostTag' });

export const hostTagListSchema = z.array(z.string());
