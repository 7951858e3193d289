/** A host agent on stubs in place of machines, slots and pagers; the real daemon of the guests without a guest; real slots. */
import { fileURLToPath } from 'node:url';

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

/** A program to be killed, with a directory, a host's namespace and an instance as its arguments. */
export const CRASHING_POOL = fileURLToPath(new URL('./crashing-pool.ts', import.meta.url));
