import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import {
  currentSpan,
  endAfter,
  isId,
  parseRequestId,
  REQUEST_ID_HEADER,
  rest,
  runAsRequest,
  TorporError,
  type Tracer,
  traceHeadersOf,
} from '@torpor/protocol';
import type { Logger } from 'pino';
import { WebSocketServer } from 'ws';
import type { AccessWatch } from '../auth/access-watch.ts';
import type { Authenticator, Credentials } from '../auth/authenticator.ts';
import { type Principal, requirePermission } from '../auth/principal.ts';
import { logFailure } from '../errors/log-failure.ts';
import { refuseUpgrade } from '../errors/refuse-upgrade.ts';
import type { GuestProcesses } from '../guest/processes.ts';
import type { RequestedStream, StreamRouter } from './session.ts';
import { FrameSocket } from './socket.ts';

export interface StreamParts {
  readonly authenticator: Authenticator;
  readonly accessWatch: AccessWatch;
  /** The credentials in the header of a request. Throws `forbidden`. */
  readonly credentials: (request: IncomingMessage) => Credentials;
  readonly processes: GuestProcesses;
  readonly logger: Logger;
  readonly tracer: Tracer;
  readonly router: StreamRouter;
}

/** A frame up to this size is read, and refused with an error if it is too large; a larger one closes the socket with 1009. */
const MAX_READ_BYTES = 4 * rest.MAX_CLIENT_FRAME_BYTES;

/** How long clients that do not read may delay the server's stop. */
const CLOSE_TIMEOUT_MS = 5_000;

interface Admission {
  readonly stream: RequestedStream;
  /** Undefined if the credentials are in the first frame. */
  readonly principal: Principal | undefined;
}

/** Serves the WebSockets of the API; see the frames in `@torpor/protocol`, `rest/streams.ts`. */
export class StreamServer {
  readonly #parts: StreamParts;
  readonly #sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_READ_BYTES,
    perMessageDeflate: false,
  });
  readonly #sessions = new Map<FrameSocket, Promise<void>>();
  #stopping: TorporError | undefined;

  constructor(parts: StreamParts) {
    this.#parts = parts;
    this.#sockets.on('headers', (headers, { headers: sent }) => {
      headers.push(`X-Request-Id: ${sent[REQUEST_ID_HEADER]}`);
    });
  }

  /** Handles a request to upgrade. Never throws: an error is sent as the response. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const id = parseRequestId(headerOf(request, REQUEST_ID_HEADER)) ?? randomUUID();
    // The server of WebSockets reads it for the header of the response.
    request.headers[REQUEST_ID_HEADER] = id;
    const span = this.#parts.tracer.start('GET', {
      kind: 'server',
      caller: traceHeadersOf((name) => headerOf(request, name)),
      attributes: { 'http.request.method': 'GET', 'torpor.request.id': id },
    });
    const upgrade = () => this.#upgrade(request, socket, head, id);
    void runAsRequest(id, () => (span === undefined ? upgrade() : endAfter(span, upgrade)));
  }

  /** Resolves when the stream is closed, or has been refused. */
  async #upgrade(
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
    requestId: string,
  ): Promise<void> {
    let admission: Admission;
    try {
      admission = await this.#admit(request);
      if (this.#stopping !== undefined) throw this.#stopping;
    } catch (reason) {
      const error = this.#stopping ?? TorporError.from(reason);
      currentSpan()?.set({
        'http.response.status_code': error.httpStatus,
        'error.type': error.code,
      });
      return refuseUpgrade(socket, error, requestId);
    }
    traceStream(admission);
    await new Promise<void>((resolve) => {
      socket.once('close', resolve);
      this.#sockets.handleUpgrade(request, socket, head, (webSocket) => {
        const frames = new FrameSocket(webSocket);
        const session = this.#run(frames, admission);
        this.#sessions.set(frames, session);
        void session.finally(() => this.#sessions.delete(frames)).then(resolve);
      });
    });
  }

  /** Closes every stream with the reason. Programs and PTYs are treated as if their clients had disconnected. */
  async close(): Promise<void> {
    const stopping = new TorporError('host_unavailable', 'The server is being stopped.', {
      remedy: 'Try again when it is running again.',
    });
    this.#stopping = stopping;
    for (const frames of this.#sessions.keys()) void frames.fail(stopping);
    const force = setTimeout(() => {
      for (const client of this.#sockets.clients) client.terminate();
    }, CLOSE_TIMEOUT_MS);
    await Promise.all(this.#sessions.values());
    clearTimeout(force);
    this.#sockets.close();
  }

  /** Finds the requested stream, and checks the credentials if they are in the header. */
  async #admit(request: IncomingMessage): Promise<Admission> {
    const [path = ''] = (request.url ?? '/').split('?', 1);
    const stream = this.#parts.router(path);
    if (stream === undefined) {
      throw new TorporError('not_found', 'This API has no such WebSocket endpoint.', {
        remedy: '/docs lists the endpoints.',
      });
    }
    const { authenticator, credentials } = this.#parts;
    const given = credentials(request);
    const principal =
      given.apiKey === undefined && given.sessionToken === undefined
        ? undefined
        : await authenticator.authenticate(given);
    if (principal !== undefined) requirePermission(principal, stream.access);
    return { stream, principal };
  }

  async #run(socket: FrameSocket, { stream, principal: known }: Admission): Promise<void> {
    const { authenticator, accessWatch, logger } = this.#parts;
    const { sandboxId, access } = stream;
    try {
      const principal = known ?? (await authenticateByFrame(socket, authenticator));
      if (principal === undefined) return;
      requirePermission(principal, access);
      using watched = accessWatch.watch(principal, [access]);
      watched.signal.addEventListener('abort', () => void socket.fail(watched.signal.reason));
      currentSpan()?.set({ 'torpor.team.id': principal.teamId || undefined });
      const processes = await this.#parts.processes.open(principal, sandboxId);
      await stream.serve({ socket, processes });
      await socket.close();
    } catch (reason) {
      const error = TorporError.from(reason);
      currentSpan()?.set({ 'error.type': error.code });
      // A client that has disconnected may have broken it off itself.
      if (!socket.closed.aborted)
        logFailure(logger, { sandbox: sandboxId }, error, 'Stream failed');
      await socket.fail(error);
    }
  }
}

function headerOf({ headers }: IncomingMessage, name: string): string | undefined {
  const header = headers[name];
  return Array.isArray(header) ? header[0] : header;
}

/** Says in the span of a WebSocket what it is for. */
function traceStream({ stream: { route, sandboxId } }: Admission): void {
  const span = currentSpan();
  span?.rename(`GET ${route}`);
  span?.set({
    'http.route': route,
    'http.response.status_code': 101,
    'torpor.sandbox.id': isId('sandbox', sandboxId) ? sandboxId : undefined,
  });
}

/** The principal of the token in the first frame; undefined if the client disconnected. */
async function authenticateByFrame(
  socket: FrameSocket,
  authenticator: Authenticator,
): Promise<Principal | undefined> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new TorporError('unauthorized', 'No auth frame was received in time.')),
    rest.WEBSOCKET_AUTH_TIMEOUT_MS,
  );
  try {
    const frame = await Promise.race([socket.receive(rest.authFrameSchema), late]);
    return frame === undefined ? undefined : await authenticator.authenticateToken(frame.token);
  } finally {
    clearTimeout(timer);
  }
}
