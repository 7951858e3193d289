import { hostname } from 'node:os';
import type { Transport } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import { SYSTEM } from './auth/principal.ts';
import { SETTINGS } from './config/index.ts';
import type { Context } from './context.ts';
import { openAgentListener } from './hosts/agent-listener.ts';
import { type ClaimTiming, HostClaims, newControlPlaneId } from './hosts/claims.ts';
import { HostConnection } from './hosts/connection.ts';
import { type HostReport, reportOfDescription } from './hosts/description.ts';
import { Enrolment } from './hosts/enrolment.ts';
import { type AgentTrust, HostFollower } from './hosts/follower.ts';
import { startLocalHeartbeat } from './hosts/local-host.ts';
import { OwnCertificate } from './hosts/own-certificate.ts';
import { Reconciler } from './hosts/reconciler.ts';
import { SILENT_REASON } from './hosts/report.ts';
import { HostRepository } from './hosts/repository.ts';
import { HostWatch, type WatchTiming } from './hosts/watch.ts';
import { PeriodicTask } from './jobs/periodic-task.ts';
import { destroyAgainOperation, destroyOnHost, destroyOperation } from './sandboxes/destroy.ts';

/** Where the control plane listens for agents. */
export interface AgentListenerOptions {
  /** Every address of the machine if omitted. */
  readonly host?: string | undefined;
  /** 0 takes any free port. */
  readonly port: number;
  /** Where agents find it; the name of this machine and the port if omitted. */
  readonly url?: string | undefined;
}

export interface HostTiming extends ClaimTiming {
  /** How often the host of this process reports that it is up. */
  readonly heartbeatMs: number;
  /** Without a heartbeat for this long a host is `unreachable`. */
  readonly silenceMs: number;
  readonly silenceCheckMs: number;
  /** How soon changes of rows are noticed. */
  readonly followMs: number;
  /** How long the certificates of hosts are valid. */
  readonly hostCertificateMs: number;
  /** How long the certificate of this control plane is valid. */
  readonly ownCertificateMs: number;
}

const DEFAULT_TIMING: HostTiming = {
  heartbeatMs: 10_000,
  silenceMs: 35_000,
  silenceCheckMs: 5_000,
  followMs: 2_000,
  claimMs: 6_000,
  claimIntervalMs: 1_500,
  claimPauseMs: 15_000,
  hostCertificateMs: 30 * 24 * 3_600_000,
  ownCertificateMs: 24 * 3_600_000,
};

export interface HostingOptions {
  readonly hostTransport?: Transport | undefined;
  readonly hostId?: string | undefined;
  readonly agents?: AgentListenerOptions | undefined;
  readonly hostTiming?: Partial<HostTiming> | undefined;
  readonly reconcilerTiming?: Partial<WatchTiming & { readonly destroyGraceMs: number }>;
  readonly guestTimeoutMs?: number;
}

/** The background work with hosts: that of this process, and those that have joined. */
export class Hosting {
  readonly agentUrl: string | undefined;
  readonly #follower: HostFollower;

  private constructor(agentUrl: string | undefined, follower: HostFollower) {
    this.agentUrl = agentUrl;
    this.#follower = follower;
  }

  /** What is to be closed is pushed on `resources`. Throws `host_setup`. */
  static async start(
    context: Context,
    options: HostingOptions,
    resources: AsyncDisposableStack,
  ): Promise<Hosting> {
    const { db, hosts: registry, logger } = context.parts;
    const timing = { ...DEFAULT_TIMING, ...options.hostTiming };
    const guestTimeoutMs = options.guestTimeoutMs ?? SETTINGS.guestTimeoutMs.defaultValue;
    await serveLocalHost(context, { ...options, guestTimeoutMs, timing }, resources);
    resources.use(markSilentHosts(context, timing));
    const certificate = certificateOnce(context, timing, resources);
    const follower = resources.use(
      new HostFollower({
        db,
        registry,
        guestTimeoutMs,
        logger,
        intervalMs: timing.followMs,
        trust: () => trustOf(context, certificate),
      }),
    );
    resources.use(claimHosts(context, options, timing));
    const agentUrl =
      options.agents === undefined
        ? undefined
        : await listenForAgents(context, options.agents, {
            certificate: await certificate(),
            lifetimeMs: timing.hostCertificateMs,
            onChange: () => follower.wake(),
            resources,
          });
    return new Hosting(agentUrl, follower);
  }

  /** Notices changed rows now. */
  wake(): void {
    this.#follower.wake();
  }
}

/** Reconciles the hosts that no other control plane does. */
function claimHosts(
  context: Context,
  { reconcilerTiming }: HostingOptions,
  timing: ClaimTiming,
): HostClaims {
  const { db, hosts: registry, sandboxes: rows, logger } = context.parts;
  const controlPlane = newControlPlaneId();
  return new HostClaims(controlPlane, {
    db,
    registry,
    logger,
    timing,
    watch: (host, onUnreachable) => {
      const reconciler = reconcilerOf(context, controlPlane, host, reconcilerTiming);
      return new HostWatch({ host, reconciler, logger, onUnreachable }, reconcilerTiming);
    },
    markUnreachable: async (hostId) => {
      while (await rows.markUnreachable(hostId, controlPlane, SILENT_REASON));
    },
  });
}

function reconcilerOf(
  { parts, locks }: Context,
  controlPlane: string,
  host: HostConnection,
  timing: HostingOptions['reconcilerTiming'],
): Reconciler {
  const { runner, sandboxes: rows, logger } = parts;
  return new Reconciler({
    host,
    controlPlane,
    rows,
    locks,
    logger,
    destroyAgain: (row) =>
      row.state === 'stopped'
        ? runner.run(destroyAgainOperation(host, row, SYSTEM))
        : runner.run(destroyOperation(parts, { id: row.id, teamId: row.team_id, actor: SYSTEM })),
    destroyGivenUp: ({ sandboxId, teamId }) => {
      const intent = { kind: 'sandbox.destroy', teamId, actor: SYSTEM } as const;
      return runner.withLock(sandboxId, intent, async ({ fence }) =>
        destroyOnHost(host, sandboxId, await fence()),
      );
    },
    destroyGraceMs: timing?.destroyGraceMs,
  });
}

async function serveLocalHost(
  { parts, delivery }: Context,
  options: HostingOptions & { readonly guestTimeoutMs: number; readonly timing: HostTiming },
  resources: AsyncDisposableStack,
): Promise<void> {
  const { hostTransport, hostId, guestTimeoutMs, timing } = options;
  if (hostTransport === undefined || hostId === undefined) return;
  const { db, hosts, logger } = parts;
  const host = new HostConnection(hostId, hostTransport, guestTimeoutMs);
  // Before the API serves: sandboxes are placed on hosts that are online.
  await new HostRepository(db).heartbeat(hostId, await describeLocal(host, logger));
  hosts.add(host);
  hosts.local = host;
  const onEvents = () => delivery.wake();
  resources.use(
    startLocalHeartbeat({ db, host, logger, onEvents, intervalMs: timing.heartbeatMs }),
  );
}

async function describeLocal(host: HostConnection, logger: Logger): Promise<HostReport> {
  try {
    return reportOfDescription(await host.describe());
  } catch (reason) {
    logger.warn({ err: TorporError.from(reason) }, 'Could not ask this host what it has');
    return { facts: {} };
  }
}

function markSilentHosts(
  { parts: { db, logger }, delivery }: Context,
  { silenceMs, silenceCheckMs: intervalMs }: HostTiming,
): AsyncDisposable {
  const hosts = new HostRepository(db);
  const failure = 'Could not look for hosts that do not respond';
  return new PeriodicTask({ intervalMs, logger, failure }, async () => {
    for (const { id } of await hosts.markSilent(silenceMs)) {
      logger.error({ host: id }, 'Host has sent no heartbeat');
      delivery.wake();
    }
  });
}

/** The certificate of this control plane, made when it is first needed. */
function certificateOnce(
  { authority, parts: { logger } }: Context,
  { ownCertificateMs }: HostTiming,
  resources: AsyncDisposableStack,
): () => Promise<OwnCertificate> {
  let current: OwnCertificate | undefined;
  resources.defer(() => current?.[Symbol.dispose]());
  return async () => {
    current ??= await OwnCertificate.issue(await authority(), logger, ownCertificateMs);
    return current;
  };
}

async function trustOf(
  { authority }: Context,
  certificate: () => Promise<OwnCertificate>,
): Promise<AgentTrust> {
  const own = await certificate();
  return { authority: (await authority()).certificate, credentials: () => own.current };
}

/** Returns where agents connect. */
async function listenForAgents(
  { authority, delivery, parts: { db, logger } }: Context,
  { host, port, url }: AgentListenerOptions,
  parts: {
    readonly certificate: OwnCertificate;
    readonly lifetimeMs: number;
    readonly onChange: () => void;
    readonly resources: AsyncDisposableStack;
  },
): Promise<string> {
  const { certificate, lifetimeMs, onChange, resources } = parts;
  const opened = await authority();
  const onEvents = () => delivery.wake();
  const server = await openAgentListener(
    {
      host,
      port,
      authority: opened,
      certificate,
      enrolment: new Enrolment({ db, authority: opened, lifetimeMs, logger, onChange, onEvents }),
      logger,
    },
    resources,
  );
  return url ?? `https://${hostInUrl(host ?? hostname())}:${server.port}`;
}

/** An IPv6 address stands in brackets in a URL. */
function hostInUrl(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}
