/** A host agent on stubs of VMMs, slots and pagers; the real envd without a guest; real slots. */
import { fileURLToPath } from 'node:url';

export { listInstanceSlots, removeInstance } from './network-instance.ts';
export { PlainEnvd } from './plain-envd.ts';
export { type RpcAgent, startRpcAgent, TRANSPORTS, type TransportName } from './rpc-agent.ts';
export {
  request,
  SCENARIOS,
  type Scenario,
  sourceWithDeadAncestor,
  TEMPLATE,
  World,
} from './scenarios.ts';
export { StubHost, StubSlots, silentLogger } from './stub-host.ts';
export { StubVm } from './stub-vmm.ts';
export { openTestPool, type TestPool, type TestPoolOptions, testInstance } from './test-pool.ts';

/** A program that a test kills. Its arguments are a directory, a host namespace and an instance. */
export const CRASHING_POOL = fileURLToPath(new URL('./crashing-pool.ts', import.meta.url));
