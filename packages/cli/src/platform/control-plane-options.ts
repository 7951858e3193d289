import type { ControlPlaneOptions } from '@torpor/control-plane';
import { type Config, mailOf, parseQuotas, providersOf } from '@torpor/control-plane/config';
import type { Tracing } from '@torpor/telemetry';
import type { Logger } from 'pino';

export interface ServerParts {
  readonly config: Config;
  readonly version: string;
  readonly logger: Logger;
}

/** The settings of the control plane, in the form that it expects. */
export function controlPlaneOptions(
  { config, version, logger }: ServerParts,
  tracing: Tracing,
): ControlPlaneOptions {
  return {
    dataDir: config.dataDir,
    databaseUrl: config.databaseUrl,
    host: config.host,
    port: config.port,
    secretKey: config.secretKey,
    quotas: parseQuotas(config.teamQuotas),
    teamsPerUser: config.teamsPerUser,
    vcpuOvercommit: config.vcpuOvercommit,
    webhookNetworks: config.webhookNetworks?.split(',') ?? [],
    publicUrl: config.publicUrl,
    trustedProxies: config.trustedProxies?.split(',') ?? [],
    signUpOpen: config.signUp,
    mail: mailOf(config),
    providers: providersOf(config),
    signUpDomains: config.signUpDomains?.split(',') ?? [],
    guestTimeoutMs: config.guestTimeoutMs,
    auditExec: config.auditExec,
    retention: { keepStoppedMs: config.keepStoppedMs, keepAuditMs: config.keepAuditMs },
    logger: logger.child({ part: 'control-plane' }),
    tracer: tracing.tracer('control-plane'),
    version,
  };
}
