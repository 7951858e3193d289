import {
  canTransition,
  type hostAgent,
  newId,
  SANDBOX_DEFAULTS,
  TorporError,
} from '@torpor/protocol';
import type { Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { Database, NewTemplateRow, SandboxRow, TemplateRow } from '../database/schema.ts';
import { phaseTimings } from '../hosts/timings.ts';
import type { CreateRecord } from '../idempotency/keys.ts';
import type { Completion, Operation } from '../operations/runner.ts';
import { notInState } from '../sandboxes/access.ts';
import { claim } from '../sandboxes/claim.ts';
import { observe, requireReport, requireRow } from '../sandboxes/parts.ts';
import { SandboxRepository } from '../sandboxes/repository.ts';
import { requireFree } from './names.ts';
import {
  nameResource,
  type OperatedSnapshot,
  releaseTemplate,
  snapshotEvent,
  type TemplateParts,
} from './parts.ts';
import { TemplateRepository } from './repository.ts';

const SNAPSHOT_TIMEOUT_MS = 10 * 60_000;

export interface NewSnapshot {
  readonly sandboxId: string;
  readonly name: string;
  /** Whether the name may be taken from a snapshot that has it. */
  readonly overwrite: boolean;
  /** What its sandboxes start programs with; what is undefined is that of the source. */
  readonly defaultUser?: string | undefined;
  readonly defaultEnv?: Readonly<Record<string, string>> | undefined;
}

/** The source, and the row that gets the name once the host has the build. */
interface Subject {
  readonly source: SandboxRow;
  readonly pending: TemplateRow;
}

interface Made extends OperatedSnapshot {
  /** The previous snapshot of the name. */
  readonly replaced: TemplateRow | undefined;
}

type AgentResponse = hostAgent.CreateSnapshotResponse;
type SnapshotOperation = Operation<Subject, AgentResponse, Made>;

/** Stores the current state of a running or paused sandbox under a name; the sandbox is paused afterwards. */
export function createSnapshotOperation(
  parts: TemplateParts,
  principal: Principal,
  snapshot: NewSnapshot,
  record: CreateRecord,
): SnapshotOperation {
  const { teamId } = principal;
  const { sandboxId, name } = snapshot;
  const event = { teamId, resource: name, metadata: { sandbox: sandboxId } };
  return {
    kind: 'snapshot.create',
    resources: [nameResource(teamId, name), sandboxId],
    teamId,
    actor: principal.actor,
    begin: async (write) => {
      await requireFree(parts.templates, teamId, snapshot);
      let pending: TemplateRow | undefined;
      const source = await claim(parts, write, {
        teamId,
        id: sandboxId,
        check: (row) => {
          if (!canTransition(row.state, 'snapshotting')) {
            throw notInState(row, 'running or paused');
          }
        },
        move: async (transaction, row) => {
          const sandboxes = new SandboxRepository(transaction);
          const templates = new TemplateRepository(transaction);
          await templates.lockName(name);
          await requireFree(templates, teamId, snapshot);
          await requireRoom(parts, transaction, row, name);
          const moved = await sandboxes.transition(row.id, row.state, 'snapshotting');
          if (moved === undefined) return undefined;
          pending = await templates.insert(pendingRow(row, snapshot), row.host_id);
          return moved;
        },
      });
      if (pending === undefined) throw new TorporError('internal_error', 'No row was inserted.');
      return { source, pending };
    },
    perform: ({ source, pending }, fence) =>
      parts.hosts
        .connection(source.host_id)
        .call((client) =>
          client.createSnapshot(
            { sandboxId, teamId, templateId: pending.id, fence },
            { timeoutMs: SNAPSHOT_TIMEOUT_MS },
          ),
        ),
    complete: async (transaction, subject, response) => {
      // Not earlier: what is not published is rolled back, also if the control plane dies.
      await record.record(transaction, { ids: [subject.pending.id] });
      return publish(transaction, subject, response);
    },
    settle: async ({ pending }, _, fence) => {
      const record = await observe(parts, sandboxId, fence);
      return async (transaction) => {
        await record(transaction);
        await new TemplateRepository(transaction).markDeleting(pending.id);
        return [snapshotEvent(event, 'error')];
      };
    },
    finish: async ({ pending }, made) => {
      const left = made === undefined ? pending : made.replaced;
      if (left !== undefined) await releaseTemplate(parts, left);
    },
  };
}

async function publish(
  transaction: Transaction<Database>,
  { source, pending }: Subject,
  response: AgentResponse,
): Promise<Completion<Made>> {
  const { state, ...facts } = requireReport(response);
  const sandbox = await new SandboxRepository(transaction).transition(
    source.id,
    'snapshotting',
    state,
    facts,
  );
  requireRow(source.id, sandbox);
  const { row, replaced } = await new TemplateRepository(transaction).publish(pending.id, {
    build_id: facts.build_id ?? null,
    vcpus: response.vcpus ?? source.vcpus,
    memory_mb: response.memoryMb ?? source.memory_mb,
    disk_size_mb: response.sandbox?.diskSizeMb ?? source.disk_size_mb,
    size_bytes: Number(response.sizeBytes),
  });
  const event = {
    teamId: row.team_id,
    resource: row.name,
    metadata: { sandbox: source.id, size_bytes: String(response.sizeBytes) },
  };
  return {
    result: { row, timings: phaseTimings(response.timings), replaced },
    events: [snapshotEvent(event, 'success')],
  };
}

/** The one that it replaces counts until then, but not against its number. */
async function requireRoom(
  { quotas }: TemplateParts,
  transaction: Transaction<Database>,
  source: SandboxRow,
  name: string,
): Promise<void> {
  const { team_id: teamId, memory_mb, disk_size_mb } = source;
  const replaced = await new TemplateRepository(transaction).find(teamId, name);
  await quotas.require(transaction, teamId, {
    snapshots: replaced === undefined ? 1 : 0,
    disk_mb: memory_mb + (disk_size_mb ?? SANDBOX_DEFAULTS.diskMb),
  });
}

function pendingRow(
  source: SandboxRow,
  { name, defaultUser, defaultEnv }: NewSnapshot,
): NewTemplateRow {
  return {
    id: newId('template'),
    team_id: source.team_id,
    name,
    type: 'snapshot',
    state: 'pending',
    source_sandbox_id: source.id,
    build_id: null,
    vcpus: source.vcpus,
    memory_mb: source.memory_mb,
    disk_size_mb: source.disk_size_mb,
    size_bytes: 0,
    default_user: defaultUser ?? source.default_user,
    default_env: JSON.stringify(defaultEnv ?? source.default_env),
    metadata: JSON.stringify(source.versions),
  };
}
