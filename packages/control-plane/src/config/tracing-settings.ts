import { type Description, type Setting, setting } from './setting.ts';

/** A variable of OpenTelemetry: it configures other programs too, so what cannot be used is only logged. */
function openTelemetry(description: Omit<Description<string>, 'parse'>): Setting<string> {
  return setting({ parse: (text) => text, ...description });
}

/** Where traces are sent, and which; see docs/tracing.md. */
export const TRACING_SETTINGS = {
  otlpEndpoint: openTelemetry({
    name: 'otlp_endpoint',
    variable: 'OTEL_EXPORTER_OTLP_ENDPOINT',
    meaning: 'the OpenTelemetry collector that traces are sent to: `http://127.0.0.1:4318`',
    show: withoutCredentials,
    secret: true,
    unset: 'no traces are sent',
  }),
  otlpTracesEndpoint: openTelemetry({
    name: 'otlp_traces_endpoint',
    variable: 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
    meaning: 'the same, with the path for traces',
    show: withoutCredentials,
    secret: true,
    unset: '/v1/traces of otlp_endpoint',
  }),
  otlpHeaders: openTelemetry({
    name: 'otlp_headers',
    variable: 'OTEL_EXPORTER_OTLP_HEADERS',
    meaning: 'headers for the collector: `name=value,…`, percent-encoded',
    show: () => undefined,
    secret: true,
    unset: 'none',
  }),
  otlpProtocol: openTelemetry({
    name: 'otlp_protocol',
    variable: 'OTEL_EXPORTER_OTLP_PROTOCOL',
    meaning: '`http/protobuf` or `http/json`',
    unset: 'http/protobuf',
  }),
  tracesExporter: openTelemetry({
    name: 'traces_exporter',
    variable: 'OTEL_TRACES_EXPORTER',
    meaning: '`otlp`, or `none` to send no traces',
    unset: 'otlp',
  }),
  tracesSampler: openTelemetry({
    name: 'traces_sampler',
    variable: 'OTEL_TRACES_SAMPLER',
    meaning: 'which traces are sent: `always_on`, `traceidratio`, `parentbased_traceidratio`, …',
    unset: 'parentbased_always_on',
  }),
  tracesSamplerArgument: openTelemetry({
    name: 'traces_sampler_arg',
    variable: 'OTEL_TRACES_SAMPLER_ARG',
    meaning: 'the ratio of a sampler that has one, from 0 to 1',
    unset: '1',
  }),
  serviceName: openTelemetry({
    name: 'service_name',
    variable: 'OTEL_SERVICE_NAME',
    meaning: 'the name of the service in traces',
    unset: 'torpor',
  }),
  openTelemetryDisabled: openTelemetry({
    name: 'otel_sdk_disabled',
    variable: 'OTEL_SDK_DISABLED',
    meaning: '`true` sends no traces either',
    unset: 'false',
  }),
} as const;

/** The URL of a collector without its user and password; undefined if that is not a URL. */
function withoutCredentials(text: string): string | undefined {
  const url = URL.parse(text);
  if (url === null) return undefined;
  const hidden = url.username !== '' || url.password !== '' || url.search !== '';
  return hidden ? `${url.origin}${url.pathname}` : text;
}
