import type { ConnectRouter } from '@connectrpc/connect';
import { hostAgent } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { SandboxManager } from '../lifecycle/manager.ts';
import { endWithCaller } from './end-with-caller.ts';
import { errorInterceptor } from './error-interceptor.ts';
import { fileRpc } from './file-rpc.ts';
import { type HostDescription, hostRpc } from './host-rpc.ts';
import { lifecycleRpc } from './lifecycle-rpc.ts';
import { processRpc } from './process-rpc.ts';
import { ptyRpc } from './pty-rpc.ts';
import { snapshotRpc } from './snapshot-rpc.ts';

export interface RouteParts {
  readonly manager: SandboxManager;
  readonly description: HostDescription;
  readonly logger: Logger;
  /** Called after a Terminate call has been answered. */
  readonly onTerminate: () => void;
}

/** Registers the HostAgentService with a Connect router. */
export function agentRoutes(parts: RouteParts): (router: ConnectRouter) => void {
  const { manager, description, logger, onTerminate } = parts;
  const implementation = {
    ...lifecycleRpc(manager),
    ...processRpc(manager),
    ...ptyRpc(manager),
    ...snapshotRpc(manager),
    ...fileRpc(manager),
    ...hostRpc(manager, description, onTerminate),
  };
  return (router) => {
    router.service(hostAgent.HostAgentService, implementation, {
      interceptors: [errorInterceptor(logger), endWithCaller],
      // File contents and output pass here in bulk: compressing them costs more than it saves.
      acceptCompression: [],
    });
  };
}
