import { z } from 'zod';

/**
 * Largest JSON body that the API reads, in bytes: room for the longest command line that
 * Linux accepts, as JSON. Files are streamed and have no limit.
 */
export const MAX_JSON_BODY_BYTES = 4 * 1024 * 1024;

export const fieldIssueSchema = z.strictObject({
  field: z.string().meta({ description: 'Its path.', example: 'memory_mb' }),
  problem: z.string().meta({ example: 'must be at least 128' }),
});

/** The body of every response that is not a success. */
export const errorBodySchema = z
  .strictObject({
    error: z.strictObject({
      code: z.string().meta({
        description: 'A stable name from the table of errors.',
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

/** Of a list that is returned whole unless a page is asked for. */
export const pageQuerySchema = z.strictObject({
  limit: z.coerce
    .number()
    .int()
    .min(1)
    .max(1000)
    .optional()
    .meta({ description: 'Return a page of at most so many entries. All if omitted.' }),
  next_token: z.string().max(512).optional().meta({
    description:
      'The header `X-Next-Token` of the page before; it is not set on the last. 200 entries without `limit`.',
  }),
});

export type PageQuery = z.infer<typeof pageQuerySchema>;

/** A name for people: visible, and without characters that reverse the direction of the text around it. */
export function displayNameSchema(maxLength: number) {
  return z
    .string()
    .regex(
      new RegExp(
        `^(?=.*[^\\p{Z}\\p{C}])[^\\p{Cc}\\p{Cs}\\u2028-\\u202e\\u2066-\\u2069]{1,${maxLength}}$`,
        'u',
      ),
      `must be 1 to ${maxLength} characters, some of them visible, without control characters`,
    );
}

const NO_NUL = /^[^\0]*$/;
const encoder = new TextEncoder();
const nulMessage = 'must not contain a NUL byte';

/** Linux's limit of one argument, in bytes of UTF-8; execve(2). */
const MAX_ARGUMENT_BYTES = 131_071;
/** Linux's limit of arguments and environment together, in bytes; execve(2). */
const MAX_ARGUMENTS_BYTES = 2 * 1024 * 1024;
/** The overhead of each argument: its terminating NUL, and a pointer to it. */
const ARGUMENT_OVERHEAD_BYTES = 9;

const tooLongMessage = `takes more than the ${MAX_ARGUMENT_BYTES} bytes that Linux passes to a program as one argument`;

/** A string that can be an argument of a program: no NUL byte. */
export const argumentSchema = z
  .string()
  .max(MAX_ARGUMENT_BYTES, { error: tooLongMessage, abort: true })
  .regex(NO_NUL, nulMessage)
  .refine((text) => fitsUtf8(text, MAX_ARGUMENT_BYTES), tooLongMessage);

/** The arguments of a program, up to Linux's limits. Longer input needs a file, or standard input. */
export const argumentsSchema = z.array(argumentSchema).refine(fitsExecve, {
  message: `take more than the ${MAX_ARGUMENTS_BYTES} bytes that Linux passes to a program; use a file or the standard input`,
});

function fitsExecve(args: readonly string[]): boolean {
  let bytes = 0;
  for (const arg of args) {
    bytes += utf8Length(arg) + ARGUMENT_OVERHEAD_BYTES;
    if (bytes > MAX_ARGUMENTS_BYTES) return false;
  }
  return true;
}

function fitsUtf8(text: string, limit: number): boolean {
  // No character takes more than three bytes per unit of UTF-16.
  return text.length * 3 <= limit || utf8Length(text) <= limit;
}

function utf8Length(text: string): number {
  return encoder.encode(text).length;
}

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
    z.string().max(MAX_ARGUMENT_BYTES, tooLongMessage).regex(NO_NUL, nulMessage),
  )
  .meta({ example: { LANG: 'C.UTF-8' } });

/** A user of the guest, and its group if not that of its account, each by name or number. */
export const guestUserSchema = z
  .string()
  .regex(
    /^(?:[A-Za-z_][A-Za-z0-9_.-]{0,31}|\d{1,10})(?::(?:[A-Za-z_][A-Za-z0-9_.-]{0,31}|\d{1,10}))?$/,
    { error: 'must be a user, or user:group, by name or number', abort: true },
  )
  // 2 ** 32 - 1 means "unchanged" in system calls; setresuid(2).
  .refine(
    (text) => text.split(':').every((name) => !/^\d+$/.test(name) || Number(name) < 0xffff_ffff),
    `must have numbers up to ${0xffff_fffe}`,
  )
  .meta({
    description:
      'A user of the guest, or `user:group`, by name or number. A number needs no account.',
    example: 'user',
  });

/** The name of a process, chosen by the client. Not all digits, which would be a pid. */
export const processTagSchema = z
  .string()
  .regex(/^(?!\d+$)[A-Za-z0-9_.-]{1,64}$/, 'must be 1 to 64 of [A-Za-z0-9_.-] and not a number')
  .meta({ example: 'web-server' });
