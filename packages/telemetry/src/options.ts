import type { Tracer } from '@torpor/protocol';
import type { Logger } from 'pino';

/** The values of OpenTelemetry's variables, as they were given: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ */
export interface TracingSettings {
  /** OTEL_EXPORTER_OTLP_ENDPOINT: `/v1/traces` is added to it. */
  readonly endpoint?: string | undefined;
  /** OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: used as it is. */
  readonly tracesEndpoint?: string | undefined;
  /** OTEL_EXPORTER_OTLP_HEADERS: `name=value,…`, values percent-encoded. */
  readonly headers?: string | undefined;
  /** OTEL_EXPORTER_OTLP_PROTOCOL: `http/protobuf` or `http/json`. */
  readonly protocol?: string | undefined;
  /** OTEL_TRACES_EXPORTER: `none` exports nothing. */
  readonly exporter?: string | undefined;
  readonly serviceName?: string | undefined;
  readonly sampler?: string | undefined;
  readonly samplerArgument?: string | undefined;
}

export interface TracingOptions {
  readonly settings: TracingSettings;
  /** The service, unless the settings name it. */
  readonly defaultServiceName: string;
  readonly version: string;
  readonly logger: Logger;
  readonly timing?: Partial<ExportTiming> | undefined;
}

/** For tests; OpenTelemetry's defaults if omitted. */
export interface ExportTiming {
  /** How long spans wait to be sent together. */
  readonly batchDelayMs: number;
  readonly exportTimeoutMs: number;
  /** How long the last spans may take when the process stops. */
  readonly closeTimeoutMs: number;
}

/** The traces of a process. */
export interface Tracing extends AsyncDisposable {
  /** Starts the spans of a part of Torpor, such as `control-plane`. */
  tracer(part: string): Tracer;
  /** Sends what is left, within a time limit. Never throws. */
  close(): Promise<void>;
}

export type Protocol = 'http/protobuf' | 'http/json';

export interface Destination {
  readonly url: URL;
  readonly protocol: Protocol;
}
