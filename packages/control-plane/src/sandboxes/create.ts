import { setTimeout as delay } from 'node:timers/promises';
import { type ErrorCode, type hostAgent, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { SandboxRow, TemplateRow } from '../database/schema.ts';
import { type HostConnection, wasNotSent } from '../hosts/connection.ts';
import type { PlacementRequest } from '../hosts/placement-request.ts';
import { phaseTimings } from '../hosts/timings.ts';
import type { CreateRecord } from '../idempotency/keys.ts';
import type { LockedWrite, Operation } from '../operations/runner.ts';
import { discard, isRemoved } from './discard.ts';
import type { Shape } from './limits.ts';
import { newSandboxRow } from './new-row.ts';
import {
  newSandboxDemand,
  type OperatedSandbox,
  onSandbox,
  requireRow,
  type SandboxParts,
  sandboxEvent,
} from './parts.ts';
import { SandboxRepository } from './repository.ts';

export interface NewSandbox extends Shape {
  readonly id: string;
  readonly template: string;
  /** The snapshot to restore; undefined if an image is booted. */
  readonly snapshot: TemplateRow | undefined;
  readonly timeoutSec: number;
  readonly autoPause: boolean;
  readonly allowInternet: boolean;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Tags that its host must have. */
  readonly hostTags: readonly string[];
}

type CreateParts = Pick<SandboxParts, 'db' | 'hosts' | 'logger' | 'placement' | 'quotas'>;

/** What a create does on hosts: the row names the one that it is on now. */
interface Subject {
  row: SandboxRow;
  /** Hosts that did not make the sandbox. */
  readonly refused: Set<string>;
  /** The last of them is the one that the row names. */
  isUnmade: boolean;
}

/**
 * Boots or restores a sandbox on the best host, or the next if that makes nothing of it. If no host
 * did, there is no row afterwards. If it failed on its host, the row stays with the reason, in state
 * `error`, or `destroying` for as long as the host may still have parts of it.
 */
export function createOperation(
  parts: CreateParts,
  principal: Principal,
  request: NewSandbox,
  record: CreateRecord,
): Operation<Subject, hostAgent.CreateSandboxResponse, OperatedSandbox> {
  const { id } = request;
  const metadata = { template: request.template };
  const wanted = placementRequest(principal, request);
  return {
    ...onSandbox(principal, id),
    kind: 'sandbox.create',
    begin: (write) =>
      write(async (transaction) => {
        await parts.quotas.require(transaction, principal.teamId, newSandboxDemand(request));
        const host = await parts.placement.reserve(transaction, wanted);
        const row = requestedRow(principal, id, host.id, request);
        const [inserted] = await new SandboxRepository(transaction).insert([row]);
        await record.record(transaction, { ids: [id] });
        return { row: requireRow(id, inserted), refused: new Set(), isUnmade: false };
      }),
    perform: async (subject, fence, write) => {
      for (;;) {
        try {
          return await createOn(parts.hosts.connection(subject.row.host_id), subject.row, {
            request,
            fence,
          });
        } catch (reason) {
          const error = TorporError.from(reason);
          subject.isUnmade = await isUnmade(parts, subject.row, error, fence);
          if (!subject.isUnmade) throw error;
          await moveOn(parts, subject, { wanted, error, write });
        }
      }
    },
    complete: async (transaction, { row }, response) => {
      const now = new Date();
      const running = await new SandboxRepository(transaction).transition(
        id,
        'creating',
        'running',
        {
          reason: null,
          host_ip: response.hostIp ?? null,
          disk_size_mb: response.sandbox?.diskSizeMb ?? row.disk_size_mb,
          build_id: response.sandbox?.buildId ?? null,
          versions: JSON.stringify(response.metadata),
          started_at: now,
          last_active_at: now,
        },
      );
      return {
        result: { row: requireRow(id, running), timings: phaseTimings(response.timings) },
        events: [sandboxEvent(row, 'success', metadata)],
      };
    },
    settle: async (subject, error, fence) => {
      const { row } = subject;
      if (subject.isUnmade) {
        return async (transaction) => {
          await new SandboxRepository(transaction).removeUnmade(id);
          await record.record(transaction, undefined);
          return [];
        };
      }
      const host = parts.hosts.connection(row.host_id);
      const discarded = await discard({ logger: parts.logger, host, fence }, id, error);
      return async (transaction) => {
        await discarded(transaction);
        return [sandboxEvent(row, 'error', metadata)];
      };
    },
    explain: ({ isUnmade: isNotThere }, error) =>
      isNotThere
        ? error
        : new TorporError(error.code, `Sandbox ${id} could not be created: ${error.message}`, {
            remedy: error.remedy,
            cause: error,
          }),
  };
}

function createOn(
  host: HostConnection,
  row: SandboxRow,
  { request, fence }: { readonly request: NewSandbox; readonly fence: bigint },
): Promise<hostAgent.CreateSandboxResponse> {
  return host.call((client) =>
    client.createSandbox(
      { ...agentRequest(row, request), fence },
      { timeoutMs: host.guestStartTimeoutMs() },
    ),
  );
}

/** What came of a sandbox on one host. */
interface Refusal {
  readonly wanted: PlacementRequest;
  readonly error: TorporError;
  readonly write: LockedWrite;
}

/** What a host says that cannot have the sandbox now, or no longer has what it is started from. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set([
  'no_hosts_available',
  'capacity_exceeded',
  'disk_full',
  'host_setup',
  'host_unavailable',
  'not_found',
]);

/** Whether the host has refused to make the sandbox, has nothing of it, and cannot have it later. */
async function isUnmade(
  { hosts, logger }: CreateParts,
  { id, host_id: hostId }: SandboxRow,
  error: TorporError,
  fence: bigint,
): Promise<boolean> {
  if (wasNotSent(error)) return true;
  if (!REFUSALS.has(error.code)) return false;
  return isRemoved({ host: hosts.connection(hostId), logger, fence }, id);
}

/** Between looks at hosts with room that others have locked. */
const LOCKED_PAUSE_MS = 10;

/** Reserves room on another host. Throws the error of the last one if there is none. */
async function moveOn(
  { db, placement, logger }: CreateParts,
  subject: Subject,
  { wanted, error, write }: Refusal,
): Promise<void> {
  const { id, host_id: hostId } = subject.row;
  subject.refused.add(hostId);
  for (;;) {
    const moved = await write(async (transaction) => {
      const sandboxes = new SandboxRepository(transaction);
      await sandboxes.lock([id]);
      const { refused } = subject;
      const next = await placement.reserveInstead(transaction, hostId, wanted, refused);
      return next && requireRow(id, await sandboxes.move(id, next.id));
    });
    if (moved !== undefined) {
      logger.warn(
        { sandbox: id, host: hostId, next: moved.host_id, err: error },
        'A host did not take a sandbox; trying another',
      );
      subject.row = moved;
      subject.isUnmade = false;
      return;
    }
    if (!(await placement.hasRoom(db, wanted, subject.refused)))
      throw lastError(error, hostId, wanted);
    await delay(LOCKED_PAUSE_MS);
  }
}

/** What is told of the last host. */
function lastError(error: TorporError, hostId: string, { origin }: PlacementRequest): TorporError {
  if (!wasNotSent(error)) return error;
  const where =
    origin.snapshot === undefined
      ? `The host ${hostId}`
      : `The snapshot ${origin.snapshot.name} is on the host ${hostId}, which`;
  return new TorporError('host_unavailable', `${where} does not respond.`, {
    remedy: 'Start the agent of that host.',
    cause: error,
  });
}

function placementRequest(
  { teamId }: Principal,
  { template, snapshot, vcpus, memoryMb, hostTags }: NewSandbox,
): PlacementRequest {
  const origin = snapshot === undefined ? { image: template } : { snapshot };
  return { teamId, vcpus, memoryMb, hostTags, origin };
}

function agentRequest(row: SandboxRow, { snapshot, envs }: NewSandbox) {
  return {
    sandboxId: row.id,
    templateId: snapshot?.id ?? row.template,
    templateName: row.template,
    fromSnapshot: snapshot !== undefined,
    autoPause: row.auto_pause,
    teamId: row.team_id,
    vcpus: row.vcpus,
    memoryMb: row.memory_mb,
    ...(row.disk_size_mb === null ? {} : { diskSizeMb: row.disk_size_mb }),
    timeoutSec: row.timeout_sec,
    ...(snapshot?.default_user == null ? {} : { defaultUser: snapshot.default_user }),
    defaultEnv: { ...snapshot?.default_env },
    envs: { ...envs },
    denyInternet: !row.allow_internet,
    labels: row.metadata,
  };
}

function requestedRow({ teamId }: Principal, id: string, hostId: string, request: NewSandbox) {
  return newSandboxRow({
    id,
    team_id: teamId,
    host_id: hostId,
    template: request.template,
    vcpus: request.vcpus,
    memory_mb: request.memoryMb,
    disk_size_mb: request.diskSizeMb,
    timeout_sec: request.timeoutSec,
    auto_pause: request.autoPause,
    allow_internet: request.allowInternet,
    default_user: request.snapshot?.default_user ?? null,
    default_env: request.snapshot?.default_env ?? {},
    metadata: request.metadata,
  });
}
