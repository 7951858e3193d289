import type { OpenAPIHono, RouteConfig } from '@hono/zod-openapi';
import { rest } from '@torpor/protocol';
import type { Context } from 'hono';
import type { z } from 'zod';
import type { AppEnvironment } from './environment.ts';
import { parseWith, queryObject, readJson } from './parse.ts';

export type Api = OpenAPIHono<AppEnvironment>;

type Method = 'get' | 'post' | 'put' | 'delete';

/** One operation of the API: what is documented is what is checked. */
export interface Endpoint<Q extends z.ZodObject, B extends z.ZodType> {
  readonly method: Method;
  /** In the notation of OpenAPI: `/v1/sandboxes/{id}`. */
  readonly path: string;
  readonly operationId: string;
  readonly summary: string;
  readonly description?: string;
  readonly tag: string;
  readonly params?: z.ZodObject;
  readonly query?: Q;
  /** A JSON body. */
  readonly body?: B;
  /** A body that the handler reads itself, as a stream: media type and its description. */
  readonly streamedBody?: Readonly<Record<string, z.ZodType>>;
  readonly responses: Readonly<Record<number, ResponseSpec>>;
  /** Codes of the error table that it can answer with, beyond the common ones. */
  readonly public?: true;
}

export interface ResponseSpec {
  readonly description: string;
  readonly content?: Readonly<Record<string, z.ZodType>>;
}

export interface EndpointInput<Q extends z.ZodObject, B extends z.ZodType> {
  readonly query: z.output<Q>;
  readonly body: z.output<B>;
}

/** Adds an operation to the application and to its OpenAPI description. */
export function addEndpoint<Q extends z.ZodObject = z.ZodObject, B extends z.ZodType = z.ZodType>(
  api: Api,
  endpoint: Endpoint<Q, B>,
  handler: (c: Context<AppEnvironment>, input: EndpointInput<Q, B>) => Response | Promise<Response>,
): void {
  api.openAPIRegistry.registerPath(describe(endpoint));
  const pattern = endpoint.path.replaceAll(/\{(\w+)\}/g, ':$1');
  api.on(endpoint.method.toUpperCase(), pattern, async (c) => {
    c.set('route', endpoint.path);
    const query = queryObject(c.req.queries());
    const input = {
      query: endpoint.query === undefined ? {} : parseWith(endpoint.query, query, 'query'),
      body:
        endpoint.body === undefined
          ? undefined
          : parseWith(endpoint.body, await readJson(c.req.raw), 'request body'),
    };
    return handler(c, input as EndpointInput<Q, B>);
  });
}

function describe<Q extends z.ZodObject, B extends z.ZodType>(
  endpoint: Endpoint<Q, B>,
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
    security: endpoint.public === true ? [] : [{ apiKey: [] }],
    request: {
      ...(endpoint.params === undefined ? {} : { params: endpoint.params }),
      ...(endpoint.query === undefined ? {} : { query: endpoint.query }),
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
