import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { rest, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import { WebSocketServer } from 'ws';
import type { ApiKeyStore, Principal } from '../auth/api-keys.ts';
import { errorBody } from '../errors/public-error.ts';
import { type GuestProcesses, selectProcess } from '../guest/processes.ts';
import { serveExecStream } from './exec-stream.ts';
import { serveProcessStream } from './process-stream.ts';
import { servePty } from './pty-stream.ts';
import { FrameSocket } from './socket.ts';

export interface StreamParts {
  readonly apiKeys: ApiKeyStore;
  readonly processes: GuestProcesses;
  readonly logger: Logger;
}

export interface StreamServer {
  /** Ends every stream, and says why. Programs and PTYs are treated as if their clients had hung up. */
  close(): Promise<void>;
}

/** One stream, after its client has been let in. */
export interface Session {
  readonly socket: FrameSocket;
  readonly sandboxId: string;
  readonly processes: GuestProcesses;
}

type Serve = (session: Session) => Promise<void>;

/** The largest frame that is read, to be answered with an error; a larger one closes the socket with 1009. */
const MAX_READ_BYTES = 4 * rest.MAX_CLIENT_FRAME_BYTES;

/** How long clients that do not read may keep the server from stopping. */
const CLOSE_TIMEOUT_MS = 5_000;

/** Serves the WebSockets of the API on `server`; see the frames in `@torpor/protocol`, `rest/streams.ts`. */
export function serveStreams(server: Server, parts: StreamParts): StreamServer {
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_READ_BYTES,
    perMessageDeflate: false,
  });
  const sessions = new Map<FrameSocket, Promise<void>>();
  let stopping: TorporError | undefined;
  const onUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => socket.destroy());
    void admit(request, parts.apiKeys).then(
      ({ route, principal }) => {
        if (stopping !== undefined) return refuse(socket, stopping);
        sockets.handleUpgrade(request, socket, head, (webSocket) => {
          const frames = new FrameSocket(webSocket);
          const session = runSession(frames, route, principal, parts);
          sessions.set(frames, session);
          void session.finally(() => sessions.delete(frames));
        });
      },
      (reason: unknown) => refuse(socket, stopping ?? TorporError.from(reason)),
    );
  };
  server.on('upgrade', onUpgrade);
  return {
    async close() {
      stopping = new TorporError('host_unavailable', 'The server is being stopped.', {
        remedy: 'Try again when it runs again.',
      });
      for (const frames of sessions.keys()) void frames.fail(stopping);
      const force = setTimeout(() => {
        for (const client of sockets.clients) client.terminate();
      }, CLOSE_TIMEOUT_MS);
      await Promise.all(sessions.values());
      clearTimeout(force);
      sockets.close();
    },
  };
}

interface Route {
  readonly sandboxId: string;
  readonly serve: Serve;
}

/** Finds the stream that is asked for, and checks the key if it is in the header. */
async function admit(
  request: IncomingMessage,
  apiKeys: ApiKeyStore,
): Promise<{ route: Route; principal: Principal | undefined }> {
  const route = findRoute(request.url ?? '/');
  if (route === undefined) {
    throw new TorporError('not_found', 'There is no such WebSocket in this API.', {
      remedy: 'See /docs for what there is.',
    });
  }
  const key = request.headers['x-api-key'];
  const principal =
    key === undefined ? undefined : await apiKeys.authenticate(Array.isArray(key) ? key[0] : key);
  return { route, principal };
}

function findRoute(url: string): Route | undefined {
  const path = url.split('?', 1)[0] ?? '';
  const [, sandboxId, rest] = /^\/v1\/sandboxes\/([^/]+)\/(.+)$/.exec(path) ?? [];
  if (sandboxId === undefined || rest === undefined) return undefined;
  if (rest === 'exec/stream') return { sandboxId, serve: serveExecStream };
  if (rest === 'pty') return { sandboxId, serve: servePty };
  const [, selector] = /^processes\/([^/]+)\/stream$/.exec(rest) ?? [];
  if (selector === undefined) return undefined;
  const selected = selectProcess(selector);
  return { sandboxId, serve: (session) => serveProcessStream(session, selected) };
}

async function runSession(
  socket: FrameSocket,
  route: Route,
  fromHeader: Principal | undefined,
  parts: StreamParts,
): Promise<void> {
  try {
    const principal = fromHeader ?? (await authenticateByFrame(socket, parts.apiKeys));
    if (principal === undefined) return;
    const { sandboxId } = route;
    await parts.processes.requireRunning(principal, sandboxId);
    await route.serve({ socket, sandboxId, processes: parts.processes });
    await socket.close();
  } catch (reason) {
    const error = TorporError.from(reason);
    if (!socket.closed.aborted && error.httpStatus >= 500) {
      parts.logger.error({ sandbox: route.sandboxId, err: error }, 'A stream failed');
    }
    await socket.fail(error);
  }
}

/** The principal of the first frame's token; undefined if the client hung up. */
async function authenticateByFrame(
  socket: FrameSocket,
  apiKeys: ApiKeyStore,
): Promise<Principal | undefined> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new TorporError('unauthorized', 'No auth frame came in time.')),
    rest.WEBSOCKET_AUTH_TIMEOUT_MS,
  );
  try {
    const frame = await Promise.race([socket.receive(rest.authFrameSchema), late]);
    return frame === undefined ? undefined : await apiKeys.authenticate(frame.token);
  } finally {
    clearTimeout(timer);
  }
}

/** Answers an upgrade request with an HTTP error. */
function refuse(socket: Duplex, error: TorporError): void {
  const body = JSON.stringify(errorBody(error));
  socket.end(
    `HTTP/1.1 ${error.httpStatus} Refused\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
