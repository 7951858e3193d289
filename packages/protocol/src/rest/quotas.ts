import { z } from 'zod';
import { QUOTA_NAMES, QUOTAS, type QuotaName } from '../quotas.ts';

const limitSchema = z
  .int()
  .min(0)
  .nullable()
  .meta({ description: 'The most that the team may have; null means no limit.' });

const quotaSchema = z
  .strictObject({
    name: z.enum(QUOTA_NAMES),
    used: z.int(),
    limit: limitSchema,
    is_default: z
      .boolean()
      .meta({ description: 'Whether it is that of the platform, not one of the team.' }),
  })
  .meta({ id: 'Quota' });

export type Quota = z.infer<typeof quotaSchema>;

export const quotaListSchema = z
  .strictObject({ team_id: z.string(), items: z.array(quotaSchema) })
  .meta({ id: 'Quotas' });

export type QuotaList = z.infer<typeof quotaListSchema>;

const changeSchema = z.union([limitSchema, z.literal('default')]).optional();

export const setQuotasSchema = z
  .strictObject(
    Object.fromEntries(
      QUOTA_NAMES.map((name) => [
        name,
        changeSchema.meta({
          description: `${QUOTAS[name]}: a number, null for no limit, or \`default\` for that of the platform.`,
        }),
      ]),
    ) as Record<QuotaName, typeof changeSchema>,
  )
  .meta({ id: 'SetQuotas' });

export type SetQuotas = z.infer<typeof setQuotasSchema>;
