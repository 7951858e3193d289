/** A program: hosts without virtual machines that have joined a control plane over TLS. */
import { MemoryHost } from '@torpor/testkit/control-plane';
import { serveRequests } from '../support/program.ts';

export interface JoinToken {
  readonly token: string;
  readonly join_url: string;
}

export interface JoinInput {
  readonly tokens: readonly JoinToken[];
  readonly heartbeatMs: number;
}

/** What a host is to have. */
export interface HostSandboxes {
  readonly hostId: string;
  readonly teamId: string;
  readonly sandboxes: readonly { readonly id: string; readonly status: 'running' }[];
}

const MEMORY_MB = 1024 * 1024;
/** What {@link drift} reports. */
const DRIFT_REASON = 'Changed while nobody watched.';

const hosts = new Map<string, MemoryHost>();

/** Returns the ids of the hosts. */
async function join({ tokens, heartbeatMs }: JoinInput): Promise<string[]> {
  const joined: string[] = [];
  for (const token of tokens) {
    const host = await MemoryHost.make();
    host.agent.limits.memoryMb = MEMORY_MB;
    await host.start(token, { heartbeatMs });
    hosts.set(host.id, host);
    joined.push(host.id);
  }
  return joined;
}

function add(contents: readonly HostSandboxes[]): void {
  for (const { hostId, teamId, sandboxes } of contents) {
    const agent = hosts.get(hostId)?.agent;
    for (const { id, status } of sandboxes) {
      agent?.addSandbox(id, teamId, { status, memoryMb: 128, templateName: 'base' });
    }
  }
}

/** Lets the last sandbox of every host fail, without telling anybody. */
function drift(): void {
  for (const { agent } of hosts.values()) {
    const last = [...agent.sandboxes.values()].findLast(({ status }) => status === 'running');
    if (last !== undefined) Object.assign(last, { status: 'error', reason: DRIFT_REASON });
  }
}

/** Lets those run again, and tells those who watch. */
function restore(): void {
  for (const { agent } of hosts.values()) {
    for (const { sandboxId, reason } of agent.sandboxes.values()) {
      if (reason === DRIFT_REASON) agent.report(sandboxId, 'running');
    }
  }
}

/** Calls that the hosts have received since the last question, by name. */
function calls(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { agent } of hosts.values()) {
    for (const name of agent.calls.splice(0)) counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

async function close(): Promise<void> {
  await Promise.all([...hosts.values()].map((host) => host[Symbol.asyncDispose]()));
}

serveRequests({ join, add, drift, restore, calls }, close);
