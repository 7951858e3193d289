import {
  type Span as ApiSpan,
  type Tracer as ApiTracer,
  type Context,
  createTraceState,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';
import {
  formatTraceParent,
  parseTraceParent,
  type Span,
  type SpanAttributes,
  type SpanOptions,
  TorporError,
  type TraceHeaders,
  type Tracer,
} from '@torpor/protocol';

const KINDS = {
  internal: SpanKind.INTERNAL,
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
} as const;

export class OpenTelemetryTracer implements Tracer {
  readonly #tracer: ApiTracer;

  constructor(tracer: ApiTracer) {
    this.#tracer = tracer;
  }

  start(name: string, options: Parameters<Tracer['start']>[1] = {}): Span {
    return startSpan(this.#tracer, name, options, contextOf(options.caller));
  }
}

class OpenTelemetrySpan implements Span {
  readonly #tracer: ApiTracer;
  readonly #span: ApiSpan;

  constructor(tracer: ApiTracer, span: ApiSpan) {
    this.#tracer = tracer;
    this.#span = span;
  }

  get traceId(): string {
    return this.#span.spanContext().traceId;
  }

  get headers(): TraceHeaders {
    const { traceId, spanId, traceFlags: flags, traceState } = this.#span.spanContext();
    const traceparent = formatTraceParent({ traceId, spanId, flags });
    const tracestate = traceState?.serialize();
    return tracestate ? { traceparent, tracestate } : { traceparent };
  }

  child(name: string, options: SpanOptions = {}): Span {
    const context = trace.setSpan(ROOT_CONTEXT, this.#span);
    return startSpan(this.#tracer, name, options, context);
  }

  rename(name: string): void {
    this.#span.updateName(name);
  }

  set(attributes: SpanAttributes): void {
    this.#span.setAttributes(defined(attributes));
  }

  end(error?: unknown): void {
    if (!this.#span.isRecording()) return;
    if (error !== undefined) {
      this.#span.setAttribute('error.type', TorporError.from(error).code);
      this.#span.setStatus({ code: SpanStatusCode.ERROR });
    }
    this.#span.end();
  }
}

function startSpan(
  tracer: ApiTracer,
  name: string,
  { kind = 'internal', attributes = {}, runningForMs }: SpanOptions,
  context: Context,
): Span {
  const span = tracer.startSpan(
    name,
    {
      kind: KINDS[kind],
      attributes: defined(attributes),
      ...(runningForMs === undefined ? {} : { startTime: Date.now() - runningForMs }),
    },
    context,
  );
  return new OpenTelemetrySpan(tracer, span);
}

/** The context of a span of another process. */
function contextOf(caller: TraceHeaders | undefined): Context {
  const parent = caller && parseTraceParent(caller.traceparent);
  if (parent === undefined) return ROOT_CONTEXT;
  const { traceId, spanId, flags: traceFlags } = parent;
  const remote = { traceId, spanId, traceFlags, isRemote: true };
  const state = caller?.tracestate;
  return trace.setSpanContext(
    ROOT_CONTEXT,
    state === undefined ? remote : { ...remote, traceState: createTraceState(state) },
  );
}

function defined(attributes: SpanAttributes): Record<string, string | number | boolean> {
  return Object.fromEntries(
    Object.entries(attributes).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, value]],
    ),
  );
}
