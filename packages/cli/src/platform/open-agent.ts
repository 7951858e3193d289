import { HostAgent, type Progress } from '@torpor/agent';
import type { Tracing } from '@torpor/telemetry';
import type { ServerParts } from './control-plane-options.ts';
import { ENVD_ENTRY } from './envd-entry.ts';
import { hostSettings } from './host-settings.ts';

export interface AgentOptions extends ServerParts {
  readonly onProgress: (progress: Progress) => void;
  /** Called when a client of the host agent requests a stop of the host. */
  readonly onTerminate: () => void;
}

/** Starts the agent of this machine. */
export function openAgent(
  { config, logger, onProgress, onTerminate }: AgentOptions,
  tracing: Tracing,
) {
  return HostAgent.open({
    ...hostSettings(config),
    envdEntry: ENVD_ENTRY,
    guestTimeoutMs: config.guestTimeoutMs,
    logger: logger.child({ part: 'agent' }),
    tracer: tracing.tracer('agent'),
    onProgress,
    onTerminate,
  });
}
