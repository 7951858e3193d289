import { z } from 'zod';

export const actorTypeSchema = z.enum(['api_key', 'user', 'system']);

const auditScopeSchema = z.enum(['team', 'admin']).meta({
  description: '`admin`: only readers with the permission `audit.admin` see it.',
});

const auditEntrySchema = z
  .strictObject({
    id: z.string(),
    team_id: z.string(),
    actor_type: actorTypeSchema,
    actor_id: z.string().optional(),
    actor_name: z.string().optional().meta({ description: 'Its name at that time.' }),
    resource_type: z.string().meta({ example: 'sandbox' }),
    resource_id: z.string(),
    action: z.string().meta({ example: 'create' }),
    scope: auditScopeSchema,
    status: z.enum(['success', 'error']),
    metadata: z.record(z.string(), z.string()).optional(),
    created_at: z.iso.datetime(),
  })
  .meta({ id: 'AuditEntry' });

export type AuditEntry = z.infer<typeof auditEntrySchema>;

export const auditPageSchema = z
  .strictObject({
    items: z.array(auditEntrySchema),
    next_before: z.iso.datetime().optional().meta({
      description: 'Pass it as `before` for the next page; not set on the last.',
    }),
    next_before_id: z.string().optional().meta({
      description: 'Pass it as `before_id` for the next page.',
    }),
  })
  .meta({ id: 'AuditPage' });

export type AuditPage = z.infer<typeof auditPageSchema>;

export const listAuditQuerySchema = z
  .strictObject({
    limit: z.coerce.number().int().min(1).max(200).default(50),
    before: z.iso
      .datetime({ offset: true })
      .optional()
      .meta({ description: 'Only entries that are older.' }),
    before_id: z.string().max(64).optional().meta({
      description: 'With `before`: also entries of that time whose id is smaller.',
    }),
    since: z.iso
      .datetime({ offset: true })
      .optional()
      .meta({ description: 'Only entries of this time and later.' }),
    resource_type: z.string().max(64).optional(),
    resource_id: z.string().max(128).optional(),
    action: z.string().max(64).optional(),
    actor_type: actorTypeSchema.optional(),
    actor_id: z.string().max(64).optional(),
    status: z.enum(['success', 'error']).optional(),
    scope: auditScopeSchema.optional(),
    all_teams: z.enum(['true', 'false']).optional().meta({
      description: '`true`: the entries of all teams, for callers with the permission `platform`.',
    }),
  })
  .refine((query) => query.before_id === undefined || query.before !== undefined, {
    path: ['before_id'],
    message: 'needs before',
  });

export type ListAuditQuery = z.infer<typeof listAuditQuerySchema>;
