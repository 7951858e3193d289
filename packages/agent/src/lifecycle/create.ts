import { mkdir } from 'node:fs/promises';
import type { Build } from '@torpor/builds';
import { syncDirectory } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { frozenShape, holdTemplate } from '../builds/checkout.ts';
import { DEFAULT_TEMPLATE } from '../machine/bring-up.ts';
import { requireFreeMemory } from '../machine/free-memory.ts';
import { PhaseTimer } from '../phase-timer.ts';
import { newRecord, type SandboxSpec } from '../registry/record.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { bringUpSandbox } from './bring-up-sandbox.ts';
import { type CreateRequest, checkedSpec } from './create-request.ts';
import { originalError } from './original-error.ts';
import { outcome, type SandboxOutcome } from './outcome.ts';
import { removeSandbox } from './release.ts';

/**
 * Creates a sandbox and resolves when its guest is ready. If it fails, nothing is left. Throws
 * `already_exists` for an id that is taken, even by a sandbox that is being created;
 * `invalid_request`, `capacity_exceeded`, `no_hosts_available`, `not_found` for an image,
 * `conflict` if it is destroyed meanwhile or the fence is too low, and the errors of the steps.
 */
export async function createSandbox(
  registry: SandboxRegistry,
  request: CreateRequest,
): Promise<SandboxOutcome> {
  registry.requireOpen();
  const { host } = registry;
  const { templateId = DEFAULT_TEMPLATE } = request;
  using held = request.fromSnapshot ? await holdTemplate(host, templateId) : undefined;
  const build = held?.build;
  const shape = build === undefined ? {} : frozenShape(build);
  const spec = checkedSpec({ ...request, ...shape }, host.limits);
  const environment = { ...request.defaultEnv, ...request.envs };
  return await createFrom(registry, {
    id: request.id,
    spec,
    environment,
    build,
    fence: request.fence,
  });
}

/** The parameters of a new sandbox. */
export interface NewSandbox {
  readonly id: string;
  readonly spec: SandboxSpec;
  readonly environment: Readonly<Record<string, string>>;
  /** The build to check out; if undefined, the image in the spec is booted. */
  readonly build: Build | undefined;
  readonly fence: number | undefined;
}

/** As {@link createSandbox}, with resolved parameters. The build is leased or referenced. */
export async function createFrom(
  registry: SandboxRegistry,
  request: NewSandbox,
): Promise<SandboxOutcome> {
  registry.requireOpen();
  const { id, spec, fence } = request;
  registry.admit(id, fence);
  if (registry.has(id)) {
    throw new TorporError('already_exists', `There is already a sandbox ${id}.`, {
      remedy: 'Each sandbox needs a new id.',
    });
  }
  const now = Date.now();
  const sandbox = registry.add(
    newRecord({
      id,
      state: 'creating',
      spec,
      uid: registry.users.acquire(),
      createdAt: now,
      lastActiveAt: now,
      metadata: {},
      ...(fence === undefined ? {} : { fence }),
    }),
  );
  return registry.run(id, () => provision(registry, sandbox, request));
}

async function provision(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  { environment, build }: NewSandbox,
): Promise<SandboxOutcome> {
  const { host, records } = registry;
  const timer = new PhaseTimer();
  await claimDirectory(registry, sandbox);
  try {
    sandbox.creation.signal.throwIfAborted();
    await requireFreeMemory(host, sandbox.record.spec.memoryMiB);
    await records.change(sandbox, {});
    await bringUpSandbox(registry, sandbox, { build, environment, timer });
    return outcome(sandbox, timer);
  } catch (error) {
    const failure = TorporError.from(originalError(error));
    host.logger.warn({ sandbox: sandbox.id, err: error }, 'Sandbox not created');
    await removeFailed(registry, sandbox, failure);
    throw failure;
  }
}

/** Creates the sandbox's directory, which must be new: the contents of an existing one must not be removed. */
async function claimDirectory(registry: SandboxRegistry, sandbox: Sandbox): Promise<void> {
  const { layout } = registry.host;
  try {
    await mkdir(layout.sandboxDirectory(sandbox.id), { mode: 0o700 });
    await syncDirectory(layout.sandboxesRoot);
  } catch (error) {
    registry.delete(sandbox);
    throw TorporError.from(error);
  }
}

/** Removes what is left of a failed creation, or keeps the sandbox as `error` if that fails too. */
async function removeFailed(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  failure: TorporError,
): Promise<void> {
  try {
    await removeSandbox(registry, sandbox);
    registry.records.announce(sandbox, 'error', failure.message);
  } catch (error) {
    const reason = `${failure.message} It could not be taken down either: ${TorporError.from(error).message}`;
    await registry.records.transition(sandbox, 'error', { reason });
  }
}
