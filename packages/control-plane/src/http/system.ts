import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { Metrics } from '../observability/metrics.ts';
import { type Api, addEndpoint, jsonResponse } from './endpoint.ts';

/** `/health` and `/metrics`: they need no key, so they reveal nothing about users. */
export function addSystemRoutes(
  api: Api,
  parts: { readonly version: string; readonly metrics: Metrics },
): void {
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/health',
      operationId: 'health',
      summary: 'Whether the server responds, and its version',
      tag: 'System',
      access: 'public',
      responses: {
        200: jsonResponse('The server responds.', rest.healthSchema),
      },
    },
    (c) => c.json({ status: 'ok', version: parts.version } satisfies rest.Health),
  );
  addEndpoint(
    api,
    {
      method: 'get',
      path: '/metrics',
      operationId: 'metrics',
      summary: 'Metrics in the Prometheus text format',
      tag: 'System',
      access: 'public',
      responses: { 200: { description: 'The metrics.', content: { 'text/plain': z.string() } } },
    },
    async (c) =>
      c.body(await parts.metrics.text(), 200, { 'Content-Type': parts.metrics.contentType }),
  );
}
