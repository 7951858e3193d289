/** Machines and servers around a host agent, made of network namespaces: what a guest may reach, and what not. */
export {
  FORBIDDEN,
  INTERNET,
  type IsolationProbe,
  type Listener,
  type ListenerEvent,
  type Outcome,
  type ProbeRequest,
  type ProbeTarget,
  startIsolationProbe,
  startListener,
  visitFrom,
} from './isolation-probe.ts';
export { attachStandInGuest, type StandInGuest } from './stand-in-guest.ts';
