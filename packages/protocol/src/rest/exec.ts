import { z } from 'zod';
import { signalNumber } from '../signals.ts';
import {
  argumentSchema,
  argumentsSchema,
  environmentSchema,
  guestPathSchema,
  guestUserSchema,
  processTagSchema,
} from './common.ts';

/** Timeout of a foreground exec, in seconds, if the request has none. */
export const DEFAULT_EXEC_TIMEOUT_SEC = 30;

/** Limit of each of the two output streams of a foreground exec, in bytes. */
export const MAX_EXEC_OUTPUT_BYTES = 4 * 1024 * 1024;

/** The program and its environment, the same for all ways to run one. */
export const commandShape = {
  cmd: argumentSchema.min(1).meta({ example: 'python3' }),
  args: argumentsSchema.default([]).meta({ example: ['-c', 'print(6*7)'] }),
  envs: environmentSchema.optional(),
  cwd: guestPathSchema.optional(),
  user: guestUserSchema.optional(),
} as const;

export const execTimeoutSchema = z.int().min(0).max(604_800, 'must be at most 604800 s (7d)');

export const execRequestSchema = z
  .strictObject({
    ...commandShape,
    timeout_sec: execTimeoutSchema
      .default(DEFAULT_EXEC_TIMEOUT_SEC)
      .meta({ description: 'Seconds until the process is killed; 0 means no limit.' }),
    background: z
      .boolean()
      .default(false)
      .meta({ description: 'Respond with 202 once the process has started, and keep it running.' }),
    tag: processTagSchema
      .optional()
      .meta({ description: 'Name of a background process; generated if omitted.' }),
  })
  .refine((request) => request.background || request.tag === undefined, {
    path: ['tag'],
    message: 'is for background processes only',
  })
  .meta({ id: 'ExecRequest' });

export type ExecRequest = z.infer<typeof execRequestSchema>;

export const execResultSchema = z
  .strictObject({
    sandbox_id: z.string(),
    cmd: z.string(),
    stdout: z.string(),
    stderr: z.string(),
    exit_code: z.int(),
    status: z.string().optional().meta({
      description:
        'What the exit code does not say: "signal: killed", "exit status 137: out of memory".',
    }),
    duration_ms: z.number(),
    encoding: z
      .enum(['utf-8', 'base64'])
      .meta({ description: 'base64 for both streams if either is not UTF-8.' }),
    truncated: z.boolean().meta({ description: 'Whether output was dropped.' }),
    stdout_dropped_bytes: z.int(),
    stderr_dropped_bytes: z.int(),
  })
  .meta({ id: 'ExecResult' });

export type ExecResult = z.infer<typeof execResultSchema>;

export const backgroundExecSchema = z
  .strictObject({
    sandbox_id: z.string(),
    cmd: z.string(),
    pid: z.int(),
    tag: z.string(),
  })
  .meta({ id: 'BackgroundExec' });

export type BackgroundExec = z.infer<typeof backgroundExecSchema>;

export const processSchema = z
  .strictObject({
    pid: z.int(),
    tag: z.string().optional(),
    cmd: z.string(),
    args: z.array(z.string()),
    exit_code: z
      .int()
      .optional()
      .meta({ description: 'Present once it has exited; -1 if a signal terminated it.' }),
    status: z
      .string()
      .optional()
      .meta({ description: 'How it was terminated, if by a signal: "signal: killed".' }),
  })
  .meta({ id: 'Process' });

export const processListSchema = z
  .strictObject({ processes: z.array(processSchema) })
  .meta({ id: 'ProcessList' });

export type ProcessList = z.infer<typeof processListSchema>;

export const listProcessesQuerySchema = z.strictObject({
  all: z.enum(['true', 'false']).optional().meta({
    description: 'Also the last background programs that have exited, with their exit status.',
  }),
});

export const killProcessQuerySchema = z.strictObject({
  signal: z
    .string()
    .refine((text) => signalNumber(text) !== undefined, 'must be a signal such as SIGINT or 2')
    .default('SIGKILL')
    .meta({
      description: 'A name such as `SIGINT`, `INT` or `RTMIN+1`, or a number from 1 to 64.',
    }),
});

/** A process by its pid, if the selector is a number, else by its tag. */
export function parseProcessSelector(
  selector: string,
):
  | { readonly case: 'pid'; readonly value: number }
  | { readonly case: 'tag'; readonly value: string } {
  const pid = Number(selector);
  return /^\d{1,10}$/.test(selector) && pid <= 0xffff_ffff
    ? { case: 'pid', value: pid }
    : { case: 'tag', value: selector };
}
