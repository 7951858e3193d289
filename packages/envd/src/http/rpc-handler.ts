import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  type ConnectRouter,
  type ConnectRouterOptions,
  createConnectRouter,
} from '@connectrpc/connect';
import {
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from '@connectrpc/connect-node';
import { limitMessages, limitUnpacked } from './message-limit.ts';

export interface RpcHandlerOptions extends ConnectRouterOptions {
  /** The largest size of a message in bytes, compressed or not. */
  readonly readMaxBytes: number;
  readonly routes: (router: ConnectRouter) => void;
  /** Responds to requests for paths without a method. */
  readonly fallback: (request: IncomingMessage, response: ServerResponse) => void;
}

/**
 * A request handler for the methods of a router, like `connectNodeAdapter`, except that a
 * client which disconnects in the middle of a response is not reported as a failure: every
 * watcher and terminal is closed that way.
 */
export function rpcHandler(
  options: RpcHandlerOptions,
): (request: IncomingMessage, response: ServerResponse) => void {
  const { routes, fallback, acceptCompression = [], ...routerOptions } = options;
  const { readMaxBytes } = options;
  const router = createConnectRouter({
    ...routerOptions,
    acceptCompression: acceptCompression.map(limitUnpacked),
  });
  routes(router);
  // Node loads its web API at the first use. This does it now instead of in the first call of
  // every restored guest.
  void new Headers();
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  return (request, response) => {
    const handler = handlers.get(request.url?.split('?', 1)[0] ?? '');
    if (handler === undefined) return fallback(request, response);
    const call = universalRequestFromNodeRequest(request, response, undefined, undefined);
    handler(limitMessages(call, readMaxBytes))
      .then((result) => universalResponseToNodeResponse(result, response))
      .catch((error: unknown) => {
        if (response.destroyed) return;
        console.error(`envd: ${handler.service.typeName}/${handler.method.name} failed:`, error);
        response.destroy();
      });
  };
}
