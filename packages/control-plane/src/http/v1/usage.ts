import { rest, TorporError } from '@torpor/protocol';
import type { z } from 'zod';
import type { Usage, UsageOfDay } from '../../events/usage.ts';
import { type Api, addEndpoint, defineEndpoint } from '../endpoint.ts';

const DAY_MS = 24 * 3_600_000;
const DEFAULT_DAYS = 30;

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/usage',
  operationId: 'getUsage',
  access: 'usage.read',
  summary: 'Sum up what the team has used, by day',
  description: `At most ${rest.MAX_USAGE_DAYS} days at once.`,
  tag: 'Usage',
  query: rest.usageQuerySchema,
  responses: {
    200: { description: 'The usage.', content: { 'application/json': rest.usageSchema } },
  },
});

export function addUsageRoutes(api: Api, usage: Usage): void {
  addEndpoint(api, GET, async (c, { query }) => {
    const { from, to } = timeSpan(query);
    const points = (await usage.perDay(c.get('principal'), from, to)).map(presentDay);
    const sum = (name: 'vcpu_seconds' | 'memory_mb_seconds' | 'disk_mb_seconds') =>
      points.reduce((total, point) => total + point[name], 0);
    return c.json({
      from: from.toISOString(),
      to: to.toISOString(),
      total: {
        vcpu_seconds: sum('vcpu_seconds'),
        memory_mb_seconds: sum('memory_mb_seconds'),
        disk_mb_seconds: sum('disk_mb_seconds'),
      },
      points,
    } satisfies rest.Usage);
  });
}

function timeSpan(query: z.output<typeof rest.usageQuerySchema>) {
  const to = query.to === undefined ? new Date() : new Date(query.to);
  const from =
    query.from === undefined
      ? new Date(to.getTime() - DEFAULT_DAYS * DAY_MS)
      : new Date(query.from);
  const days = (to.getTime() - from.getTime()) / DAY_MS;
  if (from.getTime() < 0) throw new TorporError('invalid_request', '`from` is before 1970.');
  if (days <= 0) throw new TorporError('invalid_request', '`from` must be before `to`.');
  if (days > rest.MAX_USAGE_DAYS) {
    throw new TorporError(
      'invalid_request',
      `The time is longer than ${rest.MAX_USAGE_DAYS} days.`,
      { remedy: 'Ask for it in parts.' },
    );
  }
  return { from, to };
}

function presentDay(day: UsageOfDay): rest.Usage['points'][number] {
  return {
    date: day.date,
    vcpu_seconds: day.vcpuSeconds,
    memory_mb_seconds: day.memoryMbSeconds,
    disk_mb_seconds: day.diskMbSeconds,
  };
}
