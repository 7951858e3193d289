import { readFile } from 'node:fs/promises';
import { GUEST } from '@torpor/protocol';
import type { ListenerEvent, Outcome, ProbeTarget } from '@torpor/testkit/network';
import { vi } from 'vitest';
import { type AgentClient, text } from '../agent/agent-under-test.ts';

/** A target, and how long to wait for its response; if there is none, it is waited in full. */
export interface Visit extends ProbeTarget {
  readonly timeoutMs: number;
}

/** A UDP packet with any source address. */
export interface ForgedPacket extends ProbeTarget {
  readonly source: string;
  readonly text: string;
}

const EVENTS = '/tmp/visitors';
const EXEC_TIMEOUT_SEC = 180;

/** The configuration for IPv6, which a guest's root could also write. */
const IPV6 = [
  `echo 0 > /proc/sys/net/ipv6/conf/${GUEST.interfaceName}/disable_ipv6`,
  `ip -6 addr replace 2001:db8:2::21/64 dev ${GUEST.interfaceName} nodad`,
  'ip -6 route replace default via 2001:db8:2::22',
].join(' && ');

/** A sandbox with a malicious root. */
export class GuestInVm {
  readonly sandboxId: string;
  /** The address at which its host reaches it. */
  readonly hostAddress: string;
  readonly #client: AgentClient;

  constructor(client: AgentClient, sandboxId: string, hostAddress: string) {
    this.#client = client;
    this.sandboxId = sandboxId;
    this.hostAddress = hostAddress;
  }

  /** Serves TCP and UDP on the port, and records the peers. */
  async listen(port: number): Promise<void> {
    await this.#client.startBackground({
      sandboxId: this.sandboxId,
      cmd: '/bin/sh',
      args: ['-c', `exec python3 -u -c "$0" ${port} > ${EVENTS}`, await script('listen.py')],
    });
  }

  /** All events, once there is one that fits. Throws if there is none in time. */
  async nextEvent(
    fits: (event: ListenerEvent) => boolean,
    timeoutMs: number,
  ): Promise<ListenerEvent[]> {
    return vi.waitFor(
      async () => {
        const events = await this.#events();
        if (!events.some(fits)) throw new Error(`${this.sandboxId} saw nothing of that kind.`);
        return events;
      },
      { timeout: timeoutMs, interval: 200 },
    );
  }

  /** Visits the targets, all at once and with IPv6 enabled; the outcomes are in their order. */
  async visit(targets: readonly Visit[]): Promise<Outcome[]> {
    await this.#run('sudo', '-n', 'sh', '-c', IPV6);
    const program = await script('visit.py');
    return JSON.parse(await this.#run('python3', '-c', program, JSON.stringify(targets)));
  }

  /** Sends the packets as root, each as a frame and through a raw socket. */
  async forge(packets: readonly ForgedPacket[]): Promise<void> {
    const program = await script('forge.py');
    await this.#run('sudo', '-n', 'python3', '-c', program, JSON.stringify(packets));
  }

  async #events(): Promise<ListenerEvent[]> {
    const lines = (await this.#run('cat', EVENTS)).split('\n').filter((line) => line !== '');
    return lines.map((line): ListenerEvent => JSON.parse(line));
  }

  async #run(cmd: string, ...args: readonly string[]): Promise<string> {
    const { sandboxId } = this;
    const result = await this.#client.exec({
      sandboxId,
      cmd,
      args: [...args],
      timeoutSec: EXEC_TIMEOUT_SEC,
    });
    if (result.exitCode !== 0) {
      throw new Error(`${cmd} exited with ${result.exitCode}: ${text(result.stderr)}`);
    }
    return text(result.stdout);
  }
}

function script(name: string): Promise<string> {
  return readFile(`${import.meta.dirname}/guest/${name}`, 'utf8');
}
