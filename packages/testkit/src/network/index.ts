/** Simulated machines and servers around a host agent, in network namespaces, to test what a guest can reach. */
export {
  FORBIDDEN,
  INTERNET,
  type IsolationProbe,
  type Listener,
  type ListenerEvent,
  startIsolationProbe,
  visitFrom,
} from './isolation-probe.ts';
export type { Outcome, ProbeRequest, ProbeTarget } from './probe-request.ts';
export { attachStandInGuest, type StandInGuest } from './stand-in-guest.ts';
