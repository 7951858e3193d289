import type { OpenAPIHono, RouteConfig } from '@hono/zod-openapi';
import { type Permission, rest } from '@torpor/protocol';
import type { Context } from 'hono';
import type { z } from 'zod';
import { requirePermission, requireUser } from '../auth/principal.ts';
import { parseWith } from '../validation/parse-with.ts';
import type { AppEnvironment } from './environment.ts';
import { assertParams, routePattern } from './path-template.ts';
import { queryObject, readJson } from './request-input.ts';

export type Api = OpenAPIHono<AppEnvironment>;

type Method = 'get' | 'post' | 'put' | 'patch' | 'delete';

/** One operation of the API. The same schemas document and check it. */
export interface Endpoint<
  P extends z.ZodObject = z.ZodObject,
  Q extends z.ZodObject = z.ZodObject,
  B extends z.ZodType = z.ZodType,
> {
  readonly method: Method;
  /** In the notation of OpenAPI: `/v1/sandboxes/{id}`. */
  readonly path: string;
  readonly operationId: string;
  readonly summary: string;
  readonly description?: string;
  readonly tag: string;
  /** The parameters that `path` names. */
  readonly params?: P;
  readonly query?: Q;
  /** Documented only: the handler reads them. */
  readonly headers?: z.ZodObject;
  /** A JSON body. */
  readonly body?: B;
  /** A body that the handler reads itself, as a stream: media type and its description. */
  readonly streamedBody?: Readonly<Record<string, z.ZodType>>;
  readonly responses: Readonly<Record<number, ResponseSpec>>;
  /**
   * The permission that the caller needs, in the team that a parameter `team_id` names or else
   * in that of the request. `authenticated`: any caller with valid credentials; `user`: a session; `public`: nobody.
   */
  readonly access: Permission | 'authenticated' | 'user' | 'public';
}

export interface ResponseSpec {
  readonly description: string;
  readonly content?: Readonly<Record<string, z.ZodType>>;
}

export interface EndpointInput<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> {
  readonly params: z.output<P>;
  readonly query: z.output<Q>;
  readonly body: z.output<B>;
}

type EndpointHandler<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType> = (
  c: Context<AppEnvironment>,
  input: EndpointInput<P, Q, B>,
) => Response | Promise<Response>;

/** Describes a response with a JSON body. */
export function jsonResponse(description: string, schema: z.ZodType): ResponseSpec {
  return { description, content: { 'application/json': schema } };
}

/** Describes an operation separately from its handler; checks nothing at run time. */
export function defineEndpoint<
  P extends z.ZodObject = z.ZodObject,
  Q extends z.ZodObject = z.ZodObject,
  B extends z.ZodType = z.ZodType,
>(endpoint: Endpoint<P, Q, B>): Endpoint<P, Q, B> {
  return endpoint;
}

/**
 * Adds an operation to the application and to its OpenAPI description. The handler runs only
 * for a caller with the permission, and requests whose path, query and body match their schemas;
 * others get `forbidden` and `invalid_request`.
 * Throws if the path and the schema of its parameters do not name the same ones.
 */
export function addEndpoint<
  P extends z.ZodObject = z.ZodObject,
  Q extends z.ZodObject = z.ZodObject,
  B extends z.ZodType = z.ZodType,
>(api: Api, endpoint: Endpoint<P, Q, B>, handler: EndpointHandler<P, Q, B>): void {
  assertParams(endpoint.path, endpoint.params);
  api.openAPIRegistry.registerPath(describe(endpoint));
  api.on(endpoint.method.toUpperCase(), routePattern(endpoint.path), async (c) => {
    c.set('route', endpoint.path);
    await admit(c, endpoint.access);
    const input = {
      params: parseIfAny(endpoint.params, c.req.param(), 'path'),
      query: parseIfAny(endpoint.query, queryObject(c.req.queries()), 'query'),
      body:
        endpoint.body === undefined
          ? undefined
          : parseWith(endpoint.body, await readJson(c.req.raw), 'request body'),
    };
    try {
      return await handler(c, input as EndpointInput<P, Q, B>);
    } catch (reason) {
      // What it failed with is a consequence of that.
      c.get('accessLost')?.throwIfAborted();
      throw reason;
    }
  });
}

/** Authenticates the request, and checks that it may do what it asks for. */
async function admit(c: Context<AppEnvironment>, access: Endpoint['access']): Promise<void> {
  if (access === 'public') return;
  const principal = await c.get('authenticate')(c.req.param('team_id'));
  c.set('principal', principal);
  const needs = access === 'user' || access === 'authenticated' ? [] : [access];
  c.set('needs', needs);
  if (access === 'user') requireUser(principal);
  for (const permission of needs) requirePermission(principal, permission);
}

function parseIfAny(schema: z.ZodObject | undefined, value: unknown, where: string): unknown {
  return schema === undefined ? {} : parseWith(schema, value, where);
}

function describe<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType>(
  endpoint: Endpoint<P, Q, B>,
): RouteConfig {
  const content = (types: Readonly<Record<string, z.ZodType>>) =>
    Object.fromEntries(Object.entries(types).map(([type, schema]) => [type, { schema }]));
  const body =
    endpoint.body === undefined ? endpoint.streamedBody : { 'application/json': endpoint.body };
  return {
    method: endpoint.method,
    path: endpoint.path,
    operationId: endpoint.operationId,
    summary: endpoint.summary,
    ...(endpoint.description === undefined ? {} : { description: endpoint.description }),
    tags: [endpoint.tag],
    ...(endpoint.access === 'public'
      ? { security: [] }
      : {
          security: [
            ...(endpoint.access === 'user' ? [] : [{ apiKey: [] }]),
            { session: [] },
            { sessionCookie: [] },
          ],
          'x-permission': endpoint.access,
        }),
    request: {
      ...(endpoint.params === undefined ? {} : { params: endpoint.params }),
      ...(endpoint.query === undefined ? {} : { query: endpoint.query }),
      ...(endpoint.headers === undefined ? {} : { headers: endpoint.headers }),
      ...(body === undefined ? {} : { body: { content: content(body), required: true } }),
    },
    responses: {
      ...Object.fromEntries(
        Object.entries(endpoint.responses).map(([status, response]) => [
          status,
          {
            description: response.description,
            ...(response.content === undefined ? {} : { content: content(response.content) }),
          },
        ]),
      ),
      default: {
        description: 'An error: `code` is stable, `message` says what happened.',
        content: { 'application/json': { schema: rest.errorBodySchema } },
      },
    },
  };
}
