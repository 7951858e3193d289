import { TorporError } from '@torpor/protocol';
import type { MiddlewareHandler } from 'hono';
import type { Logger } from 'pino';
import { logFailure } from '../../errors/log-failure.ts';
import type { Metrics } from '../../observability/metrics.ts';
import type { AppEnvironment } from '../environment.ts';

/** Measures and logs every request. Neither bodies, nor headers, nor queries are ever logged. */
export function observe({
  metrics,
  logger,
}: {
  readonly metrics: Metrics;
  readonly logger: Logger;
}): MiddlewareHandler<AppEnvironment> {
  return async (c, next) => {
    const started = performance.now();
    await next();
    const seconds = (performance.now() - started) / 1000;
    const route = c.get('route') ?? 'unmatched';
    const status = c.res.status;
    metrics.httpDuration.observe({ method: c.req.method, route, status }, seconds);
    const entry = { method: c.req.method, route, status, ms: Math.round(seconds * 1000) };
    if (status < 500) {
      logger.debug(entry, 'Request handled');
    } else {
      logFailure(logger, entry, TorporError.from(c.error), 'Request failed');
    }
  };
}
