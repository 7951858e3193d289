import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRouterTransport } from '@connectrpc/connect';
import { agentRoutes, destroyAll, reapIdle, SandboxRegistry } from '@torpor/agent/testing';
import { ControlPlane } from '@torpor/control-plane';
import { FORWARDING_TRACER } from '@torpor/protocol';
import type { Tracing } from '@torpor/telemetry';
import { PlainEnvd, StubHost, silentLogger } from '@torpor/testkit/agent';
import type { Logger } from 'pino';

/**
 * The whole path from a client to a program, without virtual machines: the control plane
 * with its database, the agent over the in-process transport, and for each sandbox an
 * envd as a process on this host.
 */
export interface HostStack extends AsyncDisposable {
  readonly dataDir: string;
  readonly apiUrl: string;
  readonly apiKey: string;
  /** Has the agent look for idle sandboxes when nothing was used for so long. */
  reapAfter(idleMs: number): Promise<void>;
}

export interface HostStackOptions {
  readonly logger?: Logger;
  readonly tracing?: Pick<Tracing, 'tracer'>;
}

/** `sandboxes`: how many can be created in total. */
export async function startHostStack(
  sandboxes = 1,
  { logger = silentLogger(), tracing }: HostStackOptions = {},
): Promise<HostStack> {
  await using stack = new AsyncDisposableStack();
  const dataDir = await mkdtemp(join(tmpdir(), 'torpor-stack-'));
  stack.defer(() => rm(dataDir, { recursive: true, force: true }));
  const guests = await Promise.all(Array.from({ length: sandboxes }, () => PlainEnvd.start()));
  for (const guest of guests) stack.use(guest);
  const host = stack.use(await StubHost.open());
  const registry = new SandboxRegistry(
    host.parts({
      guestUrl: guestUrls(guests),
      tracer: tracing?.tracer('agent') ?? FORWARDING_TRACER,
    }),
  );
  stack.defer(() => destroyAll(registry));
  const routes = agentRoutes({
    registry,
    description: {
      dataDir: host.layout.dataDir,
      limits: { maxVcpus: 4, maxMemoryMiB: 4096, maxDiskMiB: 100_000 },
      versions: { agent_version: '0.0.0-test' },
      images: { list: async () => [{ name: 'base', sizeBytes: 7, createdAt: 5000 }] },
      capacity: async () => ({ memoryMb: 4096n, vcpus: 4 }),
    },
    logger,
    onTerminate: () => undefined,
  });
  const controlPlane = stack.use(
    await ControlPlane.start({
      dataDir,
      host: '127.0.0.1',
      port: 0,
      hostTransport: createRouterTransport(routes),
      logger,
      tracer: tracing?.tracer('control-plane'),
      version: '0.0.0-test',
    }),
  );
  const moved = stack.move();
  return {
    dataDir,
    apiUrl: controlPlane.url,
    apiKey: controlPlane.apiKey,
    reapAfter: (idleMs) => {
      host.clock += idleMs;
      return reapIdle(registry);
    },
    [Symbol.asyncDispose]: () => moved.disposeAsync(),
  };
}

/** Gives every slot a new envd, because an envd accepts only the first sandbox that it served. */
function guestUrls(guests: readonly PlainEnvd[]): (slot: object) => string {
  const unused = guests.values();
  const given = new WeakMap<object, PlainEnvd>();
  return (slot) => {
    const guest = given.get(slot) ?? unused.next().value;
    if (guest === undefined) throw new Error('The stack was started for fewer sandboxes.');
    given.set(slot, guest);
    return guest.url;
  };
}
