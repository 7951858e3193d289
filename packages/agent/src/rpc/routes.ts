import type { ConnectRouter } from '@connectrpc/connect';
import { hostAgent } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { SandboxRegistry } from '../registry/registry.ts';
import { endWithCaller } from './end-with-caller.ts';
import { errorInterceptor } from './error-interceptor.ts';
import { execRpc } from './exec-rpc.ts';
import { fileRpc } from './file-rpc.ts';
import { type HostDescription, hostRpc } from './host-rpc.ts';
import { lifecycleRpc } from './lifecycle-rpc.ts';
import { nameRequest } from './name-request.ts';
import { processRpc } from './process-rpc.ts';
import { ptyRpc } from './pty-rpc.ts';
import { snapshotRpc } from './snapshot-rpc.ts';
import { traceCall } from './trace-call.ts';

export interface RouteParts {
  readonly registry: SandboxRegistry;
  readonly description: HostDescription;
  readonly logger: Logger;
  /** Called after a Terminate call has returned. */
  readonly onTerminate: () => void;
}

/** Registers the HostAgentService with a Connect router. */
export function agentRoutes(parts: RouteParts): (router: ConnectRouter) => void {
  const { registry, description, logger, onTerminate } = parts;
  const { tracer } = registry.host;
  const implementation = {
    ...lifecycleRpc(registry),
    ...execRpc(registry),
    ...processRpc(registry),
    ...ptyRpc(registry),
    ...snapshotRpc(registry),
    ...fileRpc(registry),
    ...hostRpc(registry, description, onTerminate),
  };
  return (router) => {
    router.service(hostAgent.HostAgentService, implementation, {
      interceptors: [nameRequest, traceCall(tracer), errorInterceptor(logger), endWithCaller],
      // File contents and output are bulk data: compressing them costs more than it saves.
      acceptCompression: [],
    });
  };
}
