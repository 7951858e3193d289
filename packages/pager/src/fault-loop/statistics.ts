/** Buckets of the latency histogram: bucket n counts faults of less than 2^n µs. */
const LATENCY_BUCKETS = 24;

/** What the pager has done for one VM. */
export interface PagerStatistics {
  /** Faults that were served. Several vCPUs that wait for one page are several faults. */
  readonly faults: number;
  /** Bytes that were installed for faults, their neighbourhood included. */
  readonly faultBytes: number;
  /** Bytes that prefetching installed. */
  readonly prefetchBytes: number;
  /** Faults on pages of the recorded working set that prefetching had not reached yet. */
  readonly prefetchLate: number;
  /** Pages that were filled with zeros. */
  readonly zeroPages: number;
  /** Pages that the VMM discarded. */
  readonly removedPages: number;
  /** Counts by latency, from reading the event to installing the page: bucket n is below 2^n µs. */
  readonly latency: readonly number[];
}

/** Counts without allocating. */
export class FaultCounters {
  faults = 0;
  faultBytes = 0;
  prefetchBytes = 0;
  prefetchLate = 0;
  zeroPages = 0;
  removedPages = 0;
  readonly #latency = new Uint32Array(LATENCY_BUCKETS);

  addLatency(microseconds: number): void {
    const bucket = 32 - Math.clz32(Math.min(microseconds, 2 ** 31));
    const index = Math.min(bucket, LATENCY_BUCKETS - 1);
    this.#latency[index] = (this.#latency[index] as number) + 1;
  }

  snapshot(): PagerStatistics {
    return {
      faults: this.faults,
      faultBytes: this.faultBytes,
      prefetchBytes: this.prefetchBytes,
      prefetchLate: this.prefetchLate,
      zeroPages: this.zeroPages,
      removedPages: this.removedPages,
      latency: [...this.#latency],
    };
  }
}
