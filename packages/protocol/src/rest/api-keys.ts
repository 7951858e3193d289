import { z } from 'zod';
import { PERMISSION_NAMES } from '../permissions.ts';
import { displayNameSchema } from './common.ts';

const scopeSchema = z.enum(PERMISSION_NAMES).meta({ id: 'Permission' });

export const createApiKeySchema = z
  .strictObject({
    name: displayNameSchema(64).meta({ example: 'ci' }),
    scopes: z.array(scopeSchema).min(1).optional().meta({
      description: 'What the key may do; if omitted, what every member of a team may do.',
    }),
    expires_at: z.iso
      .datetime({ offset: true })
      .optional()
      .meta({ description: 'From when on it is refused; never if omitted.' }),
  })
  .meta({ id: 'CreateApiKey' });

export type CreateApiKey = z.infer<typeof createApiKeySchema>;

export const apiKeySchema = z
  .strictObject({
    id: z.string(),
    team_id: z.string(),
    name: z.string(),
    key_prefix: z.string().meta({ description: 'The first characters of the key.' }),
    scopes: z.array(scopeSchema),
    created_by: z.string().optional().meta({ description: 'The user or API key that created it.' }),
    created_at: z.iso.datetime(),
    last_used: z.iso.datetime().optional().meta({ description: 'To the minute.' }),
    expires_at: z.iso.datetime().optional(),
  })
  .meta({ id: 'ApiKey' });

export type ApiKey = z.infer<typeof apiKeySchema>;

/** The response to the creation of a key. */
export const createdApiKeySchema = apiKeySchema
  .extend({ key: z.string().meta({ description: 'The key itself, which is shown only here.' }) })
  .meta({ id: 'CreatedApiKey' });

export type CreatedApiKey = z.infer<typeof createdApiKeySchema>;

export const apiKeyListSchema = z.array(apiKeySchema);
