/** Which request of the API something is done for, through every await, and from control plane to agent. */
import { AsyncLocalStorage } from 'node:async_hooks';

/** The header of the request, of its response, and of the RPCs that it causes. */
export const REQUEST_ID_HEADER = 'x-request-id';

/** Printable ASCII without spaces: it is copied into headers and logs. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

const requests = new AsyncLocalStorage<string>();

/** Undefined for anything but the id of a request, whoever chose it. */
export function parseRequestId(text: string | null | undefined): string | undefined {
  return text !== null && text !== undefined && REQUEST_ID.test(text) ? text : undefined;
}

/** The id of the request that the caller works for; undefined for Torpor's own work. */
export function currentRequestId(): string | undefined {
  return requests.getStore();
}

export function runAsRequest<T>(id: string, work: () => T): T {
  return requests.run(id, work);
}

/** Runs what outlives the request that happens to cause it, such as a timer for all requests. */
export function runOutsideRequest<T>(work: () => T): T {
  return requests.exit(work);
}

/** The field of a log line. */
function requestField(): { readonly request_id?: string } {
  const id = requests.getStore();
  return id === undefined ? {} : { request_id: id };
}

interface ChildOptions {
  readonly formatters: {
    readonly log: (fields: object) => object;
  };
}

/** A child of a pino logger: its lines have the id of the request that they are written for. */
export function logRequestIds<
  L extends { child(bindings: Record<string, unknown>, options: ChildOptions): L },
>(logger: L): L {
  return logger.child({}, { formatters: { log: (fields) => ({ ...requestField(), ...fields }) } });
}
