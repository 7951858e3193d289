/**
 * Spans of traces, without a library: what is traced depends on these types only, and
 * `@torpor/telemetry` exports them.
 */

/** What is undefined is left out. Never secrets, nor what users send: traces leave the machine. */
export type SpanAttributes = Readonly<Record<string, string | number | boolean | undefined>>;

export interface SpanOptions {
  /** `internal` if omitted. */
  readonly kind?: 'internal' | 'server' | 'client';
  readonly attributes?: SpanAttributes;
  /** For how many milliseconds it has been running already. */
  readonly runningForMs?: number;
}

/** The headers that continue a trace in another process: https://www.w3.org/TR/trace-context/ */
export interface TraceHeaders {
  readonly traceparent: string;
  readonly tracestate?: string;
}

/** A span that was started. */
export interface Span {
  /** 32 hexadecimal digits. */
  readonly traceId: string;
  /** For the calls that are made in it. */
  readonly headers: TraceHeaders;
  child(name: string, options?: SpanOptions): Span;
  rename(name: string): void;
  set(attributes: SpanAttributes): void;
  /** With an error, of which only the code is told, it has failed. */
  end(error?: unknown): void;
}

/** Starts the spans that have no parent in this process. */
export interface Tracer {
  /** `caller`: the headers of a call that it is for. Undefined if there is nothing to trace. */
  start(
    name: string,
    options?: SpanOptions & { readonly caller?: TraceHeaders | undefined },
  ): Span | undefined;
}

const TRACEPARENT = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/;
const NO_ID = /^0+$/;
/** The length that the specification has everybody pass on. */
const MAX_TRACESTATE_LENGTH = 512;

/** What a `traceparent` says, without flags that this version of it does not have. */
export interface TraceParent {
  readonly traceId: string;
  readonly spanId: string;
  readonly flags: number;
}

/** The flags of version 00: sampled, and random trace id. */
const KNOWN_FLAGS = 0b11;

/** Undefined for anything but a valid `traceparent`. Later versions are read as far as this one goes. */
export function parseTraceParent(text: string): TraceParent | undefined {
  const [, version, traceId = '', spanId = '', flags = '', more] = TRACEPARENT.exec(text) ?? [];
  if (version === undefined || version === 'ff' || (version === '00' && more !== undefined)) {
    return undefined;
  }
  if (NO_ID.test(traceId) || NO_ID.test(spanId)) return undefined;
  return { traceId, spanId, flags: Number.parseInt(flags, 16) & KNOWN_FLAGS };
}

export function formatTraceParent({ traceId, spanId, flags }: TraceParent): string {
  return `00-${traceId}-${spanId}-${flags.toString(16).padStart(2, '0')}`;
}

/** The headers of a call, by which a trace is continued; undefined if there is none, or no valid one. */
export function traceHeadersOf(header: (name: string) => string | null | undefined) {
  const parent = parseTraceParent(header('traceparent')?.trim() ?? '');
  if (parent === undefined) return undefined;
  const tracestate = header('tracestate');
  const traceparent = formatTraceParent(parent);
  const hasState = !!tracestate && tracestate.length <= MAX_TRACESTATE_LENGTH;
  return hasState ? { traceparent, tracestate } : { traceparent };
}

/** Records nothing, and passes the trace of a caller on, so that it stays one in what is called. */
export const FORWARDING_TRACER: Tracer = {
  start: (_, { caller } = {}) => (caller === undefined ? undefined : forwardedSpan(caller)),
};

function forwardedSpan(headers: TraceHeaders): Span {
  const span: Span = {
    traceId: parseTraceParent(headers.traceparent)?.traceId ?? '',
    headers,
    child: () => span,
    rename: () => undefined,
    set: () => undefined,
    end: () => undefined,
  };
  return span;
}
