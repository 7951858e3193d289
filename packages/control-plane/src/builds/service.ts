import { TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { HostRegistry } from '../hosts/registry.ts';

/** Every build is read from disk. */
const VERIFY_TIMEOUT_MS = 6 * 3_600_000;
const COLLECT_TIMEOUT_MS = 10 * 60_000;

export interface BuildReport {
  readonly buildId: string;
  /** The disk space that its files use. */
  readonly sizeBytes: number;
  /** What is wrong with it. */
  readonly fault?: string;
  /** What refers to it: `sandbox ID` or `template ID`. */
  readonly references: readonly string[];
}

export interface CollectedBuilds {
  readonly removedBuildIds: readonly string[];
  readonly freedBytes: number;
}

/** The builds of the hosts. They belong to no team, so only the operator of the hosts may see them. */
export class BuildService {
  readonly #hosts: HostRegistry;
  readonly #operatorTeamId: string;

  /** `operatorTeamId`: the team of the key in the data directory. */
  constructor(hosts: HostRegistry, operatorTeamId: string) {
    this.#hosts = hosts;
    this.#operatorTeamId = operatorTeamId;
  }

  /** Reads every build back. Throws `forbidden`. */
  async verify(principal: Principal): Promise<BuildReport[]> {
    this.#requireOperator(principal);
    const reports: BuildReport[] = [];
    for (const host of this.#hosts.all()) {
      const found = host.stream((client) =>
        client.verifyBuilds({}, { timeoutMs: VERIFY_TIMEOUT_MS }),
      );
      for await (const { buildId, fault, sizeBytes, references } of found) {
        reports.push({
          buildId,
          sizeBytes: Number(sizeBytes),
          ...(fault === undefined ? {} : { fault }),
          references,
        });
      }
    }
    return reports;
  }

  /** Removes the builds that nothing reaches. Throws `forbidden`. */
  async collect(principal: Principal): Promise<CollectedBuilds> {
    this.#requireOperator(principal);
    const collected = await Promise.all(
      this.#hosts
        .all()
        .map((host) =>
          host.call((client) => client.collectBuilds({}, { timeoutMs: COLLECT_TIMEOUT_MS })),
        ),
    );
    return {
      removedBuildIds: collected.flatMap(({ removedBuildIds }) => removedBuildIds),
      freedBytes: collected.reduce((sum, { freedBytes }) => sum + Number(freedBytes), 0),
    };
  }

  #requireOperator(principal: Principal): void {
    if (principal.teamId === this.#operatorTeamId) return;
    throw new TorporError('forbidden', 'Only the operator of the host can use its builds.', {
      remedy: 'Use the key in `credentials.json` of the data directory.',
    });
  }
}
