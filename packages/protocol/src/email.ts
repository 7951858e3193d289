import { z } from 'zod';

/** An email address, in lower case. */
export const emailSchema = z
  .string()
  .trim()
  .toLowerCase()
  .max(254)
  .pipe(z.email('must have the form name@example.com'))
  .meta({ example: 'ada@example.com' });
