import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import { type hostAgent, isId, TorporError } from '@torpor/protocol';
import { collectBuilds } from '../builds/collect.ts';
import { verifyBuilds } from '../builds/verify.ts';
import { type ForkedSandbox, forkSandbox } from '../lifecycle/fork.ts';
import { pauseSandbox } from '../lifecycle/pause.ts';
import { resumeSandbox } from '../lifecycle/resume.ts';
import { deleteSnapshot, listSnapshots, snapshotSandbox } from '../lifecycle/snapshot.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import { fenceOf, sandboxInfo, startedSandbox } from './lifecycle-rpc.ts';

type Methods = Pick<
  ServiceImpl<typeof hostAgent.HostAgentService>,
  | 'pauseSandbox'
  | 'resumeSandbox'
  | 'forkSandbox'
  | 'createSnapshot'
  | 'deleteSnapshot'
  | 'listSnapshots'
  | 'verifyBuilds'
  | 'collectBuilds'
>;

const MAX_CHILDREN = 100;

/** The calls that make builds and check them out. They finish even if the caller disconnects. */
export function snapshotRpc(registry: SandboxRegistry): Methods {
  return {
    async pauseSandbox({ sandboxId, fence }) {
      const { record, timings } = await pauseSandbox(registry, sandboxId, fenceOf(fence));
      return { sandbox: sandboxInfo(record), timings: [...timings] };
    },

    async resumeSandbox({ sandboxId, timeoutSec, fence }) {
      return startedSandbox(await resumeSandbox(registry, sandboxId, timeoutSec, fenceOf(fence)));
    },

    async forkSandbox({ sandboxId, childIds, timeoutSec, fence }) {
      checkChildren(childIds);
      const { children, source } = await forkSandbox(
        registry,
        sandboxId,
        childIds,
        timeoutSec,
        fenceOf(fence),
      );
      return { children: children.map(forkResult), timings: [...source.timings] };
    },

    async createSnapshot({ sandboxId, templateId, resumeSource, fence }) {
      const snapshot = await snapshotSandbox(registry, sandboxId, templateId, {
        resumeSource,
        fence: fenceOf(fence),
      });
      const { vcpus, memoryMiB } = snapshot.build.manifest;
      return {
        sizeBytes: BigInt(snapshot.sizeBytes),
        sandbox: sandboxInfo(snapshot.record),
        timings: [...snapshot.timings],
        vcpus,
        memoryMb: memoryMiB,
      };
    },

    async deleteSnapshot({ templateId, fence }) {
      await deleteSnapshot(registry, templateId, fenceOf(fence));
      return {};
    },

    listSnapshots() {
      return { templateIds: listSnapshots(registry) };
    },

    async *verifyBuilds() {
      for await (const { buildId, fault, sizeBytes, references } of verifyBuilds(registry.host)) {
        yield {
          buildId,
          ...(fault === undefined ? {} : { fault }),
          sizeBytes: BigInt(sizeBytes),
          references: [...references],
        };
      }
    },

    async collectBuilds() {
      const { removedBuildIds, freedBytes } = await collectBuilds(registry.host);
      return { removedBuildIds: [...removedBuildIds], freedBytes: BigInt(freedBytes) };
    },
  };
}

function forkResult({
  id,
  result,
}: ForkedSandbox): MessageInitShape<typeof hostAgent.ForkResultSchema> {
  if (!(result instanceof TorporError)) {
    return { sandboxId: id, outcome: { case: 'sandbox', value: sandboxInfo(result.record) } };
  }
  const { code, remedy, message } = result;
  const detail = { code, ...(remedy === '' ? {} : { remedy }) };
  return { sandboxId: id, outcome: { case: 'failure', value: { message, detail } } };
}

function checkChildren(ids: readonly string[]): void {
  const areNew = ids.every((id) => isId('sandbox', id)) && new Set(ids).size === ids.length;
  if (areNew && ids.length >= 1 && ids.length <= MAX_CHILDREN) return;
  throw new TorporError(
    'invalid_request',
    `A fork makes 1 to ${MAX_CHILDREN} sandboxes with different ids.`,
  );
}
