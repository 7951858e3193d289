import { z } from 'zod';

/** Largest JSON body that the API reads, in bytes. Files are streamed and have no limit. */
export const MAX_JSON_BODY_BYTES = 1024 * 1024;

export const fieldIssueSchema = z.strictObject({
  field: z.string().meta({ description: 'Its path.', example: 'memory_mb' }),
  problem: z.string().meta({ example: 'must be at least 128' }),
});

/** The body of every answer that is not a success. */
export const errorBodySchema = z
  .strictObject({
    error: z.strictObject({
      code: z.string().meta({
        description: 'A stable name of the error table.',
        example: 'invalid_state',
      }),
      message: z.string().meta({ description: 'One sentence: what happened.' }),
      remedy: z.string().optional().meta({ description: 'What to do about it.' }),
      issues: z.array(fieldIssueSchema).optional().meta({
        description: 'The fields of the request that were refused; the message names them too.',
      }),
    }),
  })
  .meta({ id: 'Error' });

export type ErrorBody = z.infer<typeof errorBodySchema>;

const NO_NUL = /^[^\0]*$/;
const nulMessage = 'must not contain a NUL byte';

/** A string that may cross into the guest as an argument: no NUL byte. */
export const argumentSchema = z.string().max(131_072).regex(NO_NUL, nulMessage);

/** An absolute path in the sandbox, or one relative to the user's home directory. */
export const guestPathSchema = z
  .string()
  .min(1)
  .max(4096)
  .regex(NO_NUL, nulMessage)
  .meta({ example: '/home/user/hello.txt' });

/** Environment variables. The values are never stored, listed or logged. */
export const environmentSchema = z
  .record(
    z
      .string()
      .min(1)
      .max(256)
      .regex(/^[^=\0]+$/, 'must be a variable name without "=" or NUL'),
    z.string().max(131_072).regex(NO_NUL, nulMessage),
  )
  .meta({ example: { LANG: 'C.UTF-8' } });

/** A user name of the guest. */
export const guestUserSchema = z
  .string()
  .regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'must be a user name')
  .meta({ example: 'user' });

/** The name of a process, chosen by the client. Not all digits, which would be a pid. */
export const processTagSchema = z
  .string()
  .regex(/^(?!\d+$)[A-Za-z0-9_.-]{1,64}$/, 'must be 1 to 64 of [A-Za-z0-9_.-] and not a number')
  .meta({ example: 'web-server' });
