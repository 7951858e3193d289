import { FORWARDING_TRACER } from '@torpor/protocol';
import type { Destination, Protocol, Tracing, TracingOptions, TracingSettings } from './options.ts';

const DEFAULT_PROTOCOL: Protocol = 'http/protobuf';
const PROTOCOLS: readonly Protocol[] = ['http/protobuf', 'http/json'];

const NOT_EXPORTED: Tracing = {
  tracer: () => FORWARDING_TRACER,
  close: async () => undefined,
  [Symbol.asyncDispose]: async () => undefined,
};

/**
 * Starts to export traces if the settings name a collector; OpenTelemetry is loaded only then. A
 * setting that cannot be used is logged and exports nothing: the same variables configure other
 * programs too, so they must not keep this one from starting.
 */
export async function startTracing(options: TracingOptions): Promise<Tracing> {
  const { settings, logger } = options;
  if ((settings.tracesEndpoint ?? settings.endpoint) === undefined) return NOT_EXPORTED;
  if (settings.exporter === 'none') return NOT_EXPORTED;
  const destination = destinationOf(settings);
  if ('unusable' in destination) {
    logger.warn({ reason: destination.unusable }, 'Traces are not exported');
    return NOT_EXPORTED;
  }
  try {
    const { OpenTelemetry } = await import('./open-telemetry.ts');
    return await OpenTelemetry.start(options, destination);
  } catch (error) {
    logger.error({ err: error }, 'Traces are not exported');
    return NOT_EXPORTED;
  }
}

/** Where spans are sent, and how; or the reason why they cannot be. */
function destinationOf(settings: TracingSettings): Destination | { readonly unusable: string } {
  const { exporter = 'otlp', protocol = DEFAULT_PROTOCOL } = settings;
  if (exporter !== 'otlp') {
    return { unusable: `OTEL_TRACES_EXPORTER is ${exporter}; otlp and none are supported.` };
  }
  if (!isProtocol(protocol)) {
    const supported = PROTOCOLS.join(' and ');
    return {
      unusable: `OTEL_EXPORTER_OTLP_PROTOCOL is ${protocol}; ${supported} are supported.`,
    };
  }
  const url = tracesUrl(settings);
  return url === undefined ? { unusable: 'The endpoint is no http(s) URL.' } : { url, protocol };
}

function isProtocol(text: string): text is Protocol {
  return (PROTOCOLS as readonly string[]).includes(text);
}

/** Where spans are posted. */
function tracesUrl({ tracesEndpoint, endpoint = '' }: TracingSettings): URL | undefined {
  const url = URL.parse(tracesEndpoint ?? endpoint);
  if (url === null || !['http:', 'https:'].includes(url.protocol)) return undefined;
  if (tracesEndpoint === undefined) url.pathname = `${url.pathname.replace(/\/$/, '')}/v1/traces`;
  return url;
}
