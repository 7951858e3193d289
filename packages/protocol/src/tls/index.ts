export {
  CONTROL_PLANE_IDENTITY,
  certificateFingerprint,
  hostIdentity,
  hostIdOf,
  isCurrent,
  issuedIdentity,
  type TlsIdentity,
} from './identity.ts';
export { type JoinToken, newJoinToken, parseJoinToken } from './join-token.ts';
export { TLS_CALLER, type TlsCaller, TlsServer } from './server.ts';
export { NotConnected } from './session.ts';
export { type TlsCredentials, type TlsPeer, TlsTransport } from './transport.ts';
