import { z } from 'zod';
import { guestPathSchema, guestUserSchema } from './common.ts';

/** Query of the raw-body forms `GET` and `PUT /v1/sandboxes/{id}/files`. */
export const filePathQuerySchema = z.strictObject({
  path: guestPathSchema,
  user: guestUserSchema.optional(),
});

export const pathRequestSchema = z
  .strictObject({ path: guestPathSchema, user: guestUserSchema.optional() })
  .meta({ id: 'PathRequest' });

export type PathRequest = z.infer<typeof pathRequestSchema>;

export const listDirRequestSchema = z
  .strictObject({
    path: guestPathSchema,
    depth: z.int().min(1).max(64).default(1),
    user: guestUserSchema.optional(),
  })
  .meta({ id: 'ListDirRequest' });

export type ListDirRequest = z.infer<typeof listDirRequestSchema>;

/** Query of the multipart uploads, for clients that send the file before the path. */
export const uploadQuerySchema = z.strictObject({
  path: guestPathSchema.optional(),
  user: guestUserSchema.optional(),
});

/** Documents the multipart form; it is parsed as a stream. */
export const uploadFormSchema = z
  .strictObject({
    path: guestPathSchema.optional(),
    user: guestUserSchema.optional(),
    file: z.string().meta({ format: 'binary' }),
  })
  .meta({ id: 'UploadForm' });

export const fileEntrySchema = z
  .strictObject({
    name: z.string(),
    path: z.string(),
    type: z.enum(['file', 'directory', 'symlink', 'other']),
    size: z.int(),
    mode: z.int(),
    permissions: z.string(),
    owner: z.string(),
    group: z.string(),
    modified_at: z.int().meta({ description: 'Unix seconds.' }),
    symlink_target: z.string().optional(),
  })
  .meta({ id: 'FileEntry' });

export type FileEntry = z.infer<typeof fileEntrySchema>;

export const fileListSchema = z
  .strictObject({ entries: z.array(fileEntrySchema) })
  .meta({ id: 'FileList' });

export const fileEntryResponseSchema = z
  .strictObject({ entry: fileEntrySchema })
  .meta({ id: 'FileEntryResponse' });
