import { z } from 'zod';

export const healthSchema = z
  .strictObject({ status: z.literal('ok'), version: z.string() })
  .meta({ id: 'Health' });

export type Health = z.infer<typeof healthSchema>;
