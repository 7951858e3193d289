/**
 * The JSON text frames of the WebSockets `…/exec/stream`, `…/pty` and
 * `…/processes/{selector}/stream` below `/v1/sandboxes/{id}`.
 *
 * A client that cannot set the header `X-API-Key` (a browser) sends
 * `{"type":"auth","token":"tpr_…"}` as its first frame, within 5 s. A wrong key
 * in the header is refused with HTTP 401; every later error is a frame of type
 * `error`, after which the socket is closed if it is fatal.
 */
import { z } from 'zod';
import {
  argumentSchema,
  argumentsSchema,
  environmentSchema,
  fieldIssueSchema,
  guestPathSchema,
  guestUserSchema,
  MAX_JSON_BODY_BYTES,
  processTagSchema,
} from './common.ts';
import { commandShape, execTimeoutSchema } from './exec.ts';

/** Timeout of the first frame of an unauthenticated WebSocket. */
export const WEBSOCKET_AUTH_TIMEOUT_MS = 5_000;

/** The largest frame that a client may send, in bytes: as for a request over HTTP. */
export const MAX_CLIENT_FRAME_BYTES = MAX_JSON_BODY_BYTES;

/** Interval of the `ping` frames of a PTY. */
export const WEBSOCKET_PING_INTERVAL_MS = 30_000;

const terminalSizeSchema = z.int().min(1).max(4096);
const base64Schema = z.base64();

export const authFrameSchema = z.strictObject({
  type: z.literal('auth'),
  token: z.string().max(256),
});

const stdinFrameSchema = z.strictObject({ type: z.literal('stdin'), data: base64Schema });
const stdinCloseFrameSchema = z.strictObject({ type: z.literal('stdin_close') });

/** What a client sends to `…/exec/stream`. Closing the socket means `stop`. */
export const execClientFrameSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('start'),
    ...commandShape,
    timeout_sec: execTimeoutSchema.default(0),
    stdin: z.boolean().default(false),
    tag: processTagSchema.optional(),
    /**
     * Send output as binary frames, a byte of {@link OUTPUT_STREAMS} and then the output, and
     * accept binary frames as standard input: without the overhead of encoding bytes as text.
     */
    binary: z.boolean().default(false),
  }),
  stdinFrameSchema,
  stdinCloseFrameSchema,
  z.strictObject({ type: z.literal('stop') }),
]);

export type ExecClientFrame = z.infer<typeof execClientFrameSchema>;

/** What a client sends to `…/processes/{selector}/stream`: input only. Closing the socket leaves the process running. */
export const processClientFrameSchema = z.discriminatedUnion('type', [
  stdinFrameSchema,
  stdinCloseFrameSchema,
]);

export type ProcessClientFrame = z.infer<typeof processClientFrameSchema>;

/** What a client sends to `…/pty`. Closing the socket leaves the PTY running; `connect` finds it again by its tag. */
export const ptyClientFrameSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('start'),
    cmd: argumentSchema.min(1).default('/bin/bash'),
    args: argumentsSchema.default([]),
    cols: terminalSizeSchema.default(80),
    rows: terminalSizeSchema.default(24),
    envs: environmentSchema.optional(),
    cwd: guestPathSchema.optional(),
    user: guestUserSchema.optional(),
  }),
  z.strictObject({ type: z.literal('connect'), tag: processTagSchema }),
  z.strictObject({ type: z.literal('input'), data: base64Schema }),
  z.strictObject({
    type: z.literal('resize'),
    cols: terminalSizeSchema,
    rows: terminalSizeSchema,
  }),
  z.strictObject({ type: z.literal('kill') }),
]);

export type PtyClientFrame = z.infer<typeof ptyClientFrameSchema>;

/** The first byte of a binary frame of output. */
export const OUTPUT_STREAMS = { stdout: 1, stderr: 2 } as const;

const errorFrameSchema = z.strictObject({
  type: z.literal('error'),
  /** The error message. */
  data: z.string(),
  code: z.string(),
  remedy: z.string().optional(),
  issues: z.array(fieldIssueSchema).optional(),
  /** Whether the socket is closed now. */
  fatal: z.boolean(),
});

/** Text, or base64 if `encoding` is set, for output that is not UTF-8. */
const outputFrame = <T extends 'stdout' | 'stderr'>(type: T) =>
  z.strictObject({
    type: z.literal(type),
    data: z.string(),
    encoding: z.literal('base64').optional(),
  });

/** What the server sends on `…/exec/stream` and `…/processes/{selector}/stream`. */
export const execServerFrameSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('start'), pid: z.int() }),
  outputFrame('stdout'),
  outputFrame('stderr'),
  z.strictObject({
    type: z.literal('exit'),
    exit_code: z.int(),
    /** What the exit code does not say: "signal: killed", "exit status 137: out of memory". */
    error: z.string().optional(),
  }),
  errorFrameSchema,
]);

export type ExecServerFrame = z.infer<typeof execServerFrameSchema>;

/** What the server sends on `…/pty`. */
export const ptyServerFrameSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('started'), tag: z.string(), pid: z.int() }),
  z.strictObject({ type: z.literal('output'), data: z.base64() }),
  z.strictObject({
    type: z.literal('exit'),
    exit_code: z.int(),
    error: z.string().optional(),
  }),
  errorFrameSchema,
  z.strictObject({ type: z.literal('ping') }),
]);

export type PtyServerFrame = z.infer<typeof ptyServerFrameSchema>;
