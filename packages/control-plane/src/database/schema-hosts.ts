import type { Permission } from '@torpor/protocol';
import type { ColumnType, Generated } from 'kysely';
import type { DefaultedTime } from './columns.ts';

/** `local`: the host of a `torpor up`, which only that process can reach. `joined`: an agent with a certificate. */
export type HostKind = 'local' | 'joined';

/** `pending`: no machine has joined yet; `unreachable`: it has sent no heartbeat for a while. */
export type HostState = 'pending' | 'online' | 'unreachable';

export interface HostTable {
  id: string;
  kind: HostKind;
  name: string;
  /** Only sandboxes of this team are placed on it; null: those of every team. */
  team_id: string | null;
  /** In whose audit log its events are. */
  audit_team_id: string;
  /** Of a local host: the data directory that it belongs to. */
  instance: string | null;
  state: HostState;
  /** No new sandboxes are placed on it. */
  draining: Generated<boolean>;
  tags: Generated<string[]>;
  /** HOST:PORT of its agent, by its last heartbeat. */
  address: string | null;
  arch: string | null;
  vcpus: number | null;
  memory_mb: number | null;
  disk_mb: number | null;
  free_disk_mb: number | null;
  builds: number | null;
  /** What one sandbox may have at most. */
  max_vcpus: number | null;
  max_memory_mb: number | null;
  /** Of its rows in `host_images`. */
  images_digest: string | null;
  agent_version: string | null;
  last_heartbeat_at: Date | null;
  /** Which machine it is, by its last heartbeat (agent/src/enrolment/machine.ts). */
  machine: string | null;
  /** Certificates that were issued to it before are no longer valid. */
  joined_at: Date | null;
  /** Of the last certificate that it got. */
  certificate_expires_at: Date | null;
  created_by: string | null;
  /** The control plane that keeps the rows of its sandboxes up to date (hosts/claims.ts); null: none. */
  reconciled_by: Generated<string | null>;
  created_at: DefaultedTime;
  updated_at: DefaultedTime;
}

/** What the sandboxes of a host take that hold memory. Kept by triggers; its row is locked while something is placed on the host. */
export interface HostUsageTable {
  host_id: string;
  /** Bigints. */
  memory_mb: string;
  vcpus: string;
}

/** An image that a host has, as its agent reported last. */
export interface HostImageTable {
  host_id: string;
  name: string;
  /** A bigint. */
  size_bytes: ColumnType<string, number, number>;
  created_at: Date;
}

/** A host that has the build of a template, or may have it: until it has confirmed that it does not. */
export interface TemplateHostTable {
  template_id: string;
  host_id: string;
}

/** A sandbox or template that was given up with a deleted host. If the machine joins again, what it still has of it is removed. */
export interface GivenUpTable {
  id: string;
  created_at: Generated<Date>;
}

/** A running control plane: a lease, on which its claims of hosts depend (hosts/claims.ts). */
export interface ControlPlaneTable {
  id: string;
  expires_at: Date;
}

/** A one-time token with which a machine becomes a host. */
export interface HostTokenTable {
  /** SHA-256 of its secret. */
  token_hash: string;
  host_id: string;
  /** SHA-256 of the public key that joined with it: only that one may use it again. Null: unused. */
  key_hash: string | null;
  /** The team in which it was made. */
  team_id: string | null;
  /** Who made it, also with a key; null if no user did. */
  user_id: string | null;
  /** The permissions without which it could not have been made. */
  needs: Generated<Permission[]>;
  expires_at: Date;
}

/** One row: what issues the certificates of control planes and hosts. */
export interface AuthorityTable {
  id: number;
  /** PEM. */
  certificate: string;
  /** PKCS #8 in PEM, encrypted (auth/secret-box.ts). */
  private_key: string;
  created_at: Generated<Date>;
}
