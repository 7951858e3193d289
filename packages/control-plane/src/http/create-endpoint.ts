import { type ErrorCode, TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { z } from 'zod';
import { errorBody } from '../errors/public-error.ts';
import {
  Claim,
  type CreateRecord,
  type IdempotencyKeys,
  type Made,
  UNRECORDED,
} from '../idempotency/keys.ts';
import { parseWith } from '../validation/parse-with.ts';
import { type Api, addEndpoint, type Endpoint, type EndpointInput } from './endpoint.ts';
import type { AppEnvironment } from './environment.ts';

const headersSchema = z.object({
  'idempotency-key': z
    .string()
    .regex(/^[\x21-\x7e]{1,255}$/, 'must be 1 to 255 printable ASCII characters without spaces')
    .optional()
    .meta({
      description:
        'Chosen by the client, for one request: the same request with the same key gets the first response, for a day, and creates nothing again.',
      example: 'f1c0a8e2-6f0e-4d0c-9d5d-0a2b8c1f7a55',
    }),
});

export interface CreateHandler<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> {
  /** Creates, and records what it creates in the transaction that does. */
  create(
    c: Context<AppEnvironment>,
    input: EndpointInput<P, Q, B>,
    record: CreateRecord,
  ): Promise<Response>;
  /** The response for what an attempt made that could not respond; undefined if nothing came of it. */
  outcome(
    c: Context<AppEnvironment>,
    input: EndpointInput<P, Q, B>,
    made: Made,
  ): Promise<Response | undefined>;
  /** Whether the response is for no one but the one who sent the request: it has a secret. */
  readonly isPrivate?: boolean;
}

/** Like {@link addEndpoint}, for one that creates something. A request with an idempotency key is handled once. */
export function addCreateEndpoint<
  P extends z.ZodObject = z.ZodObject,
  Q extends z.ZodObject = z.ZodObject,
  B extends z.ZodType = z.ZodType,
>(
  api: Api,
  keys: IdempotencyKeys,
  endpoint: Endpoint<P, Q, B>,
  handler: CreateHandler<P, Q, B>,
): void {
  addEndpoint(api, { ...endpoint, headers: headersSchema }, async (c, input) => {
    const header = { 'idempotency-key': c.req.header('idempotency-key') };
    const { 'idempotency-key': key } = parseWith(headersSchema, header, 'header');
    if (key === undefined) return handler.create(c, input, UNRECORDED);
    const { teamId, actor } = c.get('principal');
    const fingerprint = keys.fingerprint({
      method: c.req.method,
      path: c.req.path,
      query: input.query,
      body: input.body,
      ...(handler.isPrivate === true ? { actor: actor.id } : {}),
    });
    const claim = await keys.claim({ teamId, key, fingerprint }, c.req.raw.signal);
    if (claim instanceof Claim) return handle(c, input, handler, claim);
    c.header('Idempotency-Replayed', 'true');
    return c.json(claim.body, claim.status as ContentfulStatusCode);
  });
}

async function handle<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType>(
  c: Context<AppEnvironment>,
  input: EndpointInput<P, Q, B>,
  handler: CreateHandler<P, Q, B>,
  claimed: Claim,
): Promise<Response> {
  await using claim = claimed;
  try {
    const { made } = claim;
    const found = made === undefined ? undefined : await handler.outcome(c, input, made);
    const response = found ?? (await handler.create(c, input, claim));
    await claim.finish({ status: response.status, body: await response.clone().json() });
    return response;
  } catch (reason) {
    const error = TorporError.from(reason);
    if (isFinal(error, await claim.settle())) {
      await claim.finish({ status: error.httpStatus, body: errorBody(error) });
    }
    throw reason;
  }
}

/** After these the state of what was made tells more than the error. */
const UNSETTLED: ReadonlySet<ErrorCode> = new Set([
  'conflict',
  'database_unavailable',
  'host_unavailable',
  'internal_error',
  'timeout',
]);

/** Whether the same request would get the error again, or would create a second thing. */
function isFinal(error: TorporError, made: Made | undefined): boolean {
  if (UNSETTLED.has(error.code)) return false;
  return made !== undefined || (error.httpStatus < 500 && error.code !== 'quota_exceeded');
}
