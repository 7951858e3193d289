import type { IncomingMessage, ServerResponse } from 'node:http';
import { compressionBrotli, compressionGzip } from '@connectrpc/connect-node';
import { lowerOpenFilesLimit } from '@torpor/linux';
import { envdProcess } from '@torpor/protocol';
import { EnvdContext } from './context.ts';
import { handleFiles } from './files/index.ts';
import { registerFilesystem } from './filesystem/index.ts';
import { sendError, sendJson } from './http/response.ts';
import { rpcHandler } from './http/rpc-handler.ts';
import { reportTiming } from './http/server-timing.ts';
import { GuestSystem } from './init/guest-system.ts';
import { InitHandler } from './init/handler.ts';
import { Metrics } from './metrics.ts';
import type { EnvdOptions } from './options.ts';
import { Launcher } from './process/launcher.ts';
import { ProcessTable } from './process/process-table.ts';
import { runtimeDirectory } from './process/runtime-directory.ts';
import { processService } from './process/service.ts';
import { DaemonProtection } from './protection/daemon-protection.ts';

/** A message is kept in memory as a whole; files are transferred through `/files` instead. */
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
/** setTimeout's limit; a longer deadline is ignored. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;
/** The default limit of open files of programs; the guest's init sets the hard limit. */
const OPEN_FILES = 65_536;
/** The default `PATH`; as on Debian. */
const DEFAULT_SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export const UNAUTHORIZED_MESSAGE =
  'unauthorized access, please provide a valid access token or method signing if supported';

export type RequestHandler = (request: IncomingMessage, response: ServerResponse) => void;

/** Everything that envd serves besides `/health`. */
export class Services {
  readonly #context: EnvdContext;
  readonly #processes: ProcessTable;
  readonly #metrics = new Metrics();
  readonly #init: InitHandler;
  readonly #rpc: RequestHandler;

  constructor(options: EnvdOptions) {
    this.#context = new EnvdContext(options);
    this.#init = new InitHandler(this.#context, options.systemInit ? new GuestSystem() : undefined);
    this.#processes = new ProcessTable({
      context: this.#context,
      launcher: new Launcher(options.protect ? DaemonProtection.enable() : undefined),
      searchPath: options.searchPath ?? DEFAULT_SEARCH_PATH,
      runtimeDirectory: options.systemInit ? runtimeDirectory : undefined,
    });
    if (options.systemInit) lowerOpenFilesLimit(OPEN_FILES);
    this.#rpc = rpcHandler({
      routes: (router) => {
        router.service(envdProcess.Process, processService(this.#context, this.#processes));
        registerFilesystem(router, this.#context);
      },
      acceptCompression: [compressionGzip, compressionBrotli],
      readMaxBytes: MAX_MESSAGE_BYTES,
      // The client is on the same machine: compressing would only cost time.
      compressMinBytes: Number.MAX_SAFE_INTEGER,
      fallback: (_request, response) => sendError(response, 404, 'not found'),
    });
  }

  handle(request: IncomingMessage, response: ServerResponse): void {
    const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
    const method = request.method ?? 'GET';
    if (request.headers.traceparent !== undefined) reportTiming(response);
    // Reading and writing a file can be authorised by a signature instead; /init checks its own
    // token.
    const checksItself =
      path === '/init' ||
      (path === '/files' && (method === 'GET' || method === 'HEAD' || method === 'POST'));
    const token = request.headers['x-access-token'];
    if (
      !checksItself &&
      !this.#context.accessToken.allows(Array.isArray(token) ? token[0] : token)
    ) {
      request.resume();
      sendError(response, 401, UNAUTHORIZED_MESSAGE);
      return;
    }
    this.#route(path, method, request, response).catch((error: unknown) => {
      if (response.headersSent) return void response.destroy();
      const message = error instanceof Error ? error.message : String(error);
      sendError(response, 500, message);
    });
  }

  async #route(
    path: string,
    method: string,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    if (path === '/files' || path.startsWith('/files/')) {
      return handleFiles(request, response, this.#context);
    }
    switch (path) {
      case '/init':
        if (method !== 'POST') break;
        return this.#init.handle(request, response);
      case '/metrics':
        if (method !== 'GET') break;
        return sendJson(response, 200, await this.#metrics.read());
      case '/envs':
        if (method !== 'GET') break;
        return sendJson(response, 200, this.#context.envVars);
      default:
        dropUselessTimeout(request);
        return this.#rpc(request, response);
    }
    sendError(response, 405, `${path} does not support ${method}`);
  }

  /** Kills all running processes. */
  close(): void {
    this.#processes.killAll();
  }
}

/** Zero means no deadline to E2B's clients, as does one that is too long for a timer. */
function dropUselessTimeout(request: IncomingMessage): void {
  const timeout = Number(request.headers['connect-timeout-ms']);
  if (timeout === 0 || timeout > MAX_TIMEOUT_MS) {
    delete request.headers['connect-timeout-ms'];
  }
}
