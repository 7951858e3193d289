import type { Permission } from '@torpor/protocol';
import type { ProcessStreams } from '../guest/process-streams.ts';
import type { FrameSocket } from './socket.ts';

/** One stream, after its client has been authenticated. */
export interface Session {
  readonly socket: FrameSocket;
  readonly processes: ProcessStreams;
}

/** The stream at a path: which sandbox, and what to do on the socket. */
export interface RequestedStream {
  /** The pattern of its path, as in the documentation. */
  readonly route: string;
  readonly sandboxId: string;
  /** The permission that its client needs. */
  readonly access: Permission;
  readonly serve: (session: Session) => Promise<void>;
}

/** The stream at a path; undefined if there is none. Throws `invalid_request`. */
export type StreamRouter = (path: string) => RequestedStream | undefined;
