/** Which request of the API something is done for, through every await, and from control plane to agent. */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Span } from './span.ts';

/** The header of the request, of its response, and of the RPCs that it causes. */
export const REQUEST_ID_HEADER = 'x-request-id';

/** Printable ASCII without spaces: it is copied into headers and logs. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

interface RequestContext {
  readonly id?: string;
  readonly span?: Span;
}

const requests = new AsyncLocalStorage<RequestContext>();

/** Undefined for anything but the id of a request, whoever chose it. */
export function parseRequestId(text: string | null | undefined): string | undefined {
  return text !== null && text !== undefined && REQUEST_ID.test(text) ? text : undefined;
}

/** The id of the request that the caller works for; undefined for Torpor's own work. */
export function currentRequestId(): string | undefined {
  return requests.getStore()?.id;
}

export function runAsRequest<T>(id: string, work: () => T): T {
  return requests.run({ ...requests.getStore(), id }, work);
}

/** The span that the caller works in; undefined if that is not traced. */
export function currentSpan(): Span | undefined {
  return requests.getStore()?.span;
}

export function runInSpan<T>(span: Span, work: () => T): T {
  return requests.run({ ...requests.getStore(), span }, work);
}

/** Runs what outlives the request that happens to cause it, such as a timer for all requests. */
export function runOutsideRequest<T>(work: () => T): T {
  return requests.exit(work);
}

/** The fields of a log line. */
function requestFields(): { readonly request_id?: string; readonly trace_id?: string } {
  const { id, span } = requests.getStore() ?? {};
  return {
    ...(id === undefined ? {} : { request_id: id }),
    ...(span === undefined ? {} : { trace_id: span.traceId }),
  };
}

interface ChildOptions {
  readonly formatters: {
    readonly log: (fields: object) => object;
  };
}

/** A child of a pino logger: its lines have the ids of the request and of the trace that they are written for. */
export function logRequestIds<
  L extends { child(bindings: Record<string, unknown>, options: ChildOptions): L },
>(logger: L): L {
  return logger.child({}, { formatters: { log: (fields) => ({ ...requestFields(), ...fields }) } });
}
