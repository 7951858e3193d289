import type { Config } from '@torpor/control-plane/config';
import { startTracing, type Tracing, type TracingSettings } from '@torpor/telemetry';
import type { ServerParts } from './control-plane-options.ts';

/** The traces of this process, which `service` names unless a setting does. */
export function openTracing(
  { config, version, logger }: ServerParts,
  service: string,
): Promise<Tracing> {
  return startTracing({
    settings: tracingSettings(config),
    defaultServiceName: service,
    version,
    logger,
  });
}

/** Nothing is exported if there is no endpoint, or OpenTelemetry is disabled. */
function tracingSettings(config: Config): TracingSettings {
  const isDisabled = config.openTelemetryDisabled?.toLowerCase() === 'true';
  return {
    endpoint: config.otlpEndpoint,
    tracesEndpoint: config.otlpTracesEndpoint,
    headers: config.otlpHeaders,
    protocol: config.otlpProtocol,
    exporter: isDisabled ? 'none' : config.tracesExporter,
    serviceName: config.serviceName,
    sampler: config.tracesSampler,
    samplerArgument: config.tracesSamplerArgument,
  };
}
