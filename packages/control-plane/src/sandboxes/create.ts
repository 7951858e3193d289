import { type hostAgent, newId, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { SandboxRow, TemplateRow } from '../database/schema.ts';
import { type Place, reserveMemory } from '../hosts/placement.ts';
import { phaseTimings } from '../hosts/timings.ts';
import type { CreateRecord } from '../idempotency/keys.ts';
import type { Operation } from '../operations/runner.ts';
import { discard } from './discard.ts';
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
  readonly template: string;
  /** The snapshot to restore; undefined if an image is booted. */
  readonly snapshot: TemplateRow | undefined;
  readonly timeoutSec: number;
  readonly autoPause: boolean;
  readonly allowInternet: boolean;
  readonly envs: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * Boots or restores a sandbox. If the agent fails, the row stays with the reason, in state
 * `error`, or `destroying` for as long as the host may still have parts of it.
 */
export function createOperation(
  { logger, quotas }: Pick<SandboxParts, 'logger' | 'quotas'>,
  principal: Principal,
  request: NewSandbox,
  { host, description }: Place,
  record: CreateRecord,
): Operation<SandboxRow, hostAgent.CreateSandboxResponse, OperatedSandbox> {
  const id = newId('sandbox');
  const metadata = { template: request.template };
  return {
    ...onSandbox(principal, id),
    kind: 'sandbox.create',
    begin: (write) =>
      write(async (transaction) => {
        const { memoryMb } = request;
        await quotas.require(transaction, principal.teamId, newSandboxDemand(request));
        await reserveMemory(transaction, host.id, {
          memoryMb,
          hostMemoryMb: description.memoryMb,
        });
        const row = requestedRow(principal, id, host.id, request);
        const [inserted] = await new SandboxRepository(transaction).insert([row]);
        await record.record(transaction, { ids: [id] });
        return requireRow(id, inserted);
      }),
    perform: (row, fence) =>
      host.call((client) =>
        client.createSandbox(
          { ...agentRequest(row, request), fence },
          {
            timeoutMs: host.guestStartTimeoutMs(),
          },
        ),
      ),
    complete: async (transaction, row, response) => {
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
    settle: async (row, error, fence) => {
      const record = await discard({ logger, host, fence }, id, error);
      return async (transaction) => {
        await record(transaction);
        return [sandboxEvent(row, 'error', metadata)];
      };
    },
    explain: (_, error) =>
      new TorporError(error.code, `Sandbox ${id} could not be created: ${error.message}`, {
        remedy: error.remedy,
        cause: error,
      }),
  };
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
    metadata: request.metadata,
  });
}
