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

/** The builds of the hosts. They belong to no team. */
export class BuildService {
  readonly #hosts: HostRegistry;

  constructor(hosts: HostRegistry) {
    this.#hosts = hosts;
  }

  /** Reads every build back. */
  async verify(): Promise<BuildReport[]> {
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

  /** Removes the builds that nothing reaches. */
  async collect(): Promise<CollectedBuilds> {
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
}
