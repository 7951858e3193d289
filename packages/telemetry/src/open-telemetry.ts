/** Spans as OpenTelemetry's library makes and exports them. Importing this loads it: 250 modules. */
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { parseKeyPairsIntoRecord } from '@opentelemetry/core';
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, type SpanExporter, TracerProvider } from '@opentelemetry/sdk-trace';
import type { Tracer } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { Destination, ExportTiming, Tracing, TracingOptions } from './options.ts';
import { ReportingExporter } from './reporting-exporter.ts';
import { createSampler } from './sampler.ts';
import { OpenTelemetryTracer } from './spans.ts';

const CLOSE_TIMEOUT_MS = 5_000;
/** More than every id and route; that of a request is the client's. */
const MAX_ATTRIBUTE_LENGTH = 256;

export class OpenTelemetry implements Tracing {
  readonly #provider: TracerProvider;
  readonly #agent: HttpAgent | HttpsAgent;
  readonly #version: string;
  readonly #logger: Logger;
  readonly #closeTimeoutMs: number;
  #closed: Promise<void> | undefined;

  static async start(options: TracingOptions, destination: Destination): Promise<Tracing> {
    const { url } = destination;
    const agent =
      url.protocol === 'https:' ? new HttpsAgent(KEEP_ALIVE) : new HttpAgent(KEEP_ALIVE);
    const { settings, logger, timing } = options;
    const exporter = new ReportingExporter(
      await openExporter(destination, settings.headers, agent, timing),
      { url, logger },
    );
    const provider = new TracerProvider({
      resource: resourceOf(options),
      sampler: createSampler(settings, logger),
      spanLimits: { attributeValueLengthLimit: MAX_ATTRIBUTE_LENGTH },
      spanProcessors: [
        new BatchSpanProcessor({
          exporter,
          ...(timing?.batchDelayMs === undefined
            ? {}
            : { scheduledDelayMillis: timing.batchDelayMs }),
        }),
      ],
    });
    logger.info({ collector: exporter.collector }, 'Traces are exported');
    return new OpenTelemetry(provider, agent, options);
  }

  private constructor(
    provider: TracerProvider,
    agent: HttpAgent | HttpsAgent,
    { version, logger, timing }: TracingOptions,
  ) {
    this.#provider = provider;
    this.#agent = agent;
    this.#version = version;
    this.#logger = logger;
    this.#closeTimeoutMs = timing?.closeTimeoutMs ?? CLOSE_TIMEOUT_MS;
  }

  tracer(part: string): Tracer {
    return new OpenTelemetryTracer(this.#provider.getTracer(`torpor.${part}`, this.#version));
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const sent = this.#provider.shutdown().then(
      () => true,
      // The exporter has logged it.
      () => false,
    );
    const late = delay(this.#closeTimeoutMs, false, { ref: false });
    if (!(await Promise.race([sent, late]))) this.#logger.warn('The last traces were not exported');
    this.#agent.destroy();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

const KEEP_ALIVE = { keepAlive: true } as const;

/** What is not given here, the exporter reads from the environment: compression, certificates, time limit. */
async function openExporter(
  { url, protocol }: Destination,
  headers: string | undefined,
  agent: HttpAgent | HttpsAgent,
  timing: Partial<ExportTiming> | undefined,
): Promise<SpanExporter> {
  const { OTLPTraceExporter } =
    protocol === 'http/json'
      ? await import('@opentelemetry/exporter-trace-otlp-http')
      : await import('@opentelemetry/exporter-trace-otlp-proto');
  return new OTLPTraceExporter({
    url: url.href,
    headers: parseKeyPairsIntoRecord(headers),
    httpAgentOptions: () => agent,
    ...(timing?.exportTimeoutMs === undefined ? {} : { timeoutMillis: timing.exportTimeoutMs }),
  });
}

/** The service, and what OTEL_RESOURCE_ATTRIBUTES says of it. */
function resourceOf({ settings, defaultServiceName, version }: TracingOptions) {
  const { serviceName } = settings;
  const defaults = resourceFromAttributes({
    'service.name': defaultServiceName,
    'service.version': version,
  });
  const named = serviceName === undefined ? {} : { 'service.name': serviceName };
  return defaults
    .merge(detectResources({ detectors: [envDetector] }))
    .merge(resourceFromAttributes(named));
}
