import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { hostAgent } from '@torpor/protocol';
import { readTail } from '@torpor/vmm';
import { createSandbox } from '../lifecycle/create.ts';
import { destroySandbox } from '../lifecycle/destroy.ts';
import type { SandboxOutcome } from '../lifecycle/outcome.ts';
import type { SandboxRecord } from '../registry/record.ts';
import type { SandboxRegistry } from '../registry/registry.ts';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  | 'createSandbox'
  | 'destroySandbox'
  | 'getSandbox'
  | 'listSandboxes'
  | 'watchSandboxes'
  | 'pingSandbox'
  | 'readConsole'
>;

const KEEPALIVE_MS = 15_000;
const MAX_CONSOLE_BYTES = 1024 * 1024;

/** The calls about sandboxes as a whole. Those that change one finish even if the caller disconnects. */
export function lifecycleRpc(registry: SandboxRegistry): Methods {
  return {
    async createSandbox(request) {
      const outcome = await createSandbox(registry, {
        id: request.sandboxId,
        vcpus: request.vcpus,
        memoryMiB: request.memoryMb,
        diskSizeMiB: request.diskSizeMb,
        timeoutSec: request.timeoutSec,
        teamId: request.teamId,
        templateId: request.templateId,
        templateName: request.templateName,
        defaultUser: request.defaultUser,
        defaultEnv: request.defaultEnv,
        envs: request.envs,
        allowInternet: !request.denyInternet,
        hostname: request.hostname,
        autoPause: request.autoPause,
        labels: request.labels,
        fromSnapshot: request.fromSnapshot,
        fence: fenceOf(request.fence),
      });
      return startedSandbox(outcome);
    },

    async destroySandbox({ sandboxId, fence }) {
      await destroySandbox(registry, sandboxId, fenceOf(fence));
      return {};
    },

    async getSandbox({ sandboxId, fence }) {
      if (fence !== undefined) await registry.fenceOff(sandboxId, Number(fence));
      return { sandbox: sandboxInfo(registry.get(sandboxId)) };
    },

    listSandboxes() {
      return { sandboxes: registry.list().map(sandboxInfo) };
    },

    async *watchSandboxes(_, { signal }) {
      for await (const event of registry.watch(KEEPALIVE_MS, signal)) {
        switch (event.kind) {
          case 'item':
            yield { event: { case: 'sandbox' as const, value: sandboxInfo(event.item) } };
            break;
          case 'synchronised':
          case 'keepalive':
            yield { event: { case: event.kind, value: {} } };
        }
      }
    },

    pingSandbox({ sandboxId }) {
      registry.touch(sandboxId);
      return {};
    },

    async readConsole({ sandboxId, maxBytes }) {
      const limit = Math.min(maxBytes ?? MAX_CONSOLE_BYTES, MAX_CONSOLE_BYTES);
      return { content: await readTail(registry.consoleLog(sandboxId), limit) };
    },
  };
}

/** The response about a sandbox that was created or resumed. */
export function startedSandbox({ record, timings }: SandboxOutcome) {
  return {
    sandboxId: record.id,
    ...hostIpOf(record),
    metadata: record.metadata,
    sandbox: sandboxInfo(record),
    timings: [...timings],
  };
}

export function sandboxInfo(
  record: SandboxRecord,
): MessageInitShape<typeof hostAgent.SandboxInfoSchema> {
  const { spec, reason, buildId, startedAt } = record;
  return {
    sandboxId: record.id,
    status: record.state,
    vcpus: spec.vcpus,
    memoryMb: spec.memoryMiB,
    diskSizeMb: spec.diskSizeMiB,
    ...hostIpOf(record),
    createdAtUnix: unixSeconds(record.createdAt),
    lastActiveAtUnix: unixSeconds(record.lastActiveAt),
    timeoutSec: spec.timeoutSec,
    teamId: spec.teamId,
    templateId: spec.templateId,
    ...(spec.templateName === undefined ? {} : { templateName: spec.templateName }),
    ...(startedAt === undefined ? {} : { startedAtUnix: unixSeconds(startedAt) }),
    metadata: record.metadata,
    ...(reason === undefined ? {} : { reason }),
    ...(buildId === undefined ? {} : { buildId }),
    denyInternet: !spec.allowInternet,
    autoPause: spec.autoPause,
    labels: spec.labels,
  };
}

/** Of a call; far below the limit of exact numbers. */
export function fenceOf(fence: bigint | undefined): number | undefined {
  return fence === undefined ? undefined : Number(fence);
}

/** Of a sandbox that has a network slot. */
function hostIpOf({ slot }: SandboxRecord): { hostIp?: string } {
  return slot === undefined ? {} : { hostIp: slot.hostAddress };
}

function unixSeconds(milliseconds: number): bigint {
  return BigInt(Math.floor(milliseconds / 1000));
}
