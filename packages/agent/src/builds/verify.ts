import { TorporError } from '@torpor/protocol';
import type { HostContext } from '../host-context.ts';
import { describeReference } from './reference-names.ts';

export interface BuildReport {
  readonly buildId: string;
  /** What is wrong with it; undefined for a valid build. */
  readonly fault?: string;
  /** Bytes that it occupies. */
  readonly sizeBytes: number;
  /** Its references: `sandbox NAME`, `template NAME` or `kept-boot NAME`. */
  readonly references: readonly string[];
}

/** Reads every build back. */
export async function* verifyBuilds(host: HostContext): AsyncGenerator<BuildReport> {
  const { builds } = host;
  for (const buildId of await builds.list()) {
    using lease = await builds.leaseListed(buildId);
    if (lease === undefined) continue;
    const references = builds.references
      .all()
      .filter((reference) => reference.buildId === buildId)
      .map(describeReference);
    const sizeBytes = await builds.size(buildId);
    const fault = await builds.verify(buildId).then(
      () => undefined,
      (error: unknown) => TorporError.from(error).message,
    );
    yield { buildId, sizeBytes, references, ...(fault === undefined ? {} : { fault }) };
  }
}
