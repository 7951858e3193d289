/** A program: a control plane that agents join. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { ControlPlane } from '@torpor/control-plane';
import { pino } from 'pino';
import { serveRequests } from '../support/program.ts';

/** Where it has its database, and where agents find it. */
export interface ControlPlaneInput {
  readonly dataDir: string;
  readonly databaseUrl: string;
  /** 0 takes any free port. */
  readonly agentPort: number;
}

export interface StartedControlPlane {
  readonly url: string;
  readonly apiKey: string;
  readonly agentPort: number;
}

/** What its process has used so far. */
export interface ProcessUse {
  readonly cpuMs: number;
  readonly rssMiB: number;
  /** The longest time that its event loop was blocked since the last question. */
  readonly longestBlockMs: number;
}

/** Not the 5 s of the default: a host that is slow because the machine is busy is not lost. */
const GIVE_UP_MS = 120_000;

let controlPlane: ControlPlane | undefined;
const delays = monitorEventLoopDelay({ resolution: 10 });
delays.enable();

async function start({ agentPort, ...options }: ControlPlaneInput): Promise<StartedControlPlane> {
  controlPlane = await ControlPlane.start({
    ...options,
    host: '127.0.0.1',
    port: 0,
    agents: { host: '127.0.0.1', port: agentPort },
    logger: pino({ level: 'warn' }, pino.destination(2)),
    version: '0.0.0-bench',
    reconcilerTiming: { unreachableAfterMs: GIVE_UP_MS },
  });
  const { url, apiKey, agentUrl = '' } = controlPlane;
  return { url, apiKey, agentPort: Number(new URL(agentUrl).port) };
}

function use(): ProcessUse {
  const { user, system } = process.cpuUsage();
  const longestBlockMs = delays.max / 1e6;
  delays.reset();
  return {
    cpuMs: (user + system) / 1000,
    rssMiB: process.memoryUsage.rss() / 2 ** 20,
    longestBlockMs,
  };
}

serveRequests({ start, use }, async () => controlPlane?.close());
