import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

const HTTP_BUCKETS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const CREATE_BUCKETS = [0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128];

/** Counts sandboxes for the gauge. */
export interface SandboxCounts {
  countByState(): Promise<ReadonlyMap<string, number>>;
}

/** The metrics of `/metrics`, in their own registry: several control planes can run in one process. */
export class Metrics {
  readonly #registry = new Registry();

  readonly httpDuration = new Histogram({
    name: 'torpor_http_request_duration_seconds',
    help: 'Time until the response was ready to be sent.',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: HTTP_BUCKETS,
    registers: [this.#registry],
  });

  readonly #createDuration = new Histogram({
    name: 'torpor_sandbox_create_duration_seconds',
    help: 'Time from the reservation of a sandbox until it runs, or has failed.',
    labelNames: ['outcome'] as const,
    buckets: CREATE_BUCKETS,
    registers: [this.#registry],
  });

  readonly #operationDuration = new Histogram({
    name: 'torpor_sandbox_operation_duration_seconds',
    help: 'Time that a pause, resume, fork, snapshot or destroy took, or until it had failed.',
    labelNames: ['operation', 'outcome'] as const,
    buckets: CREATE_BUCKETS,
    registers: [this.#registry],
  });

  readonly execs = new Counter({
    name: 'torpor_execs_total',
    help: 'Programs started in sandboxes.',
    labelNames: ['kind'] as const,
    registers: [this.#registry],
  });

  constructor(sandboxes: SandboxCounts) {
    new Gauge({
      name: 'torpor_sandboxes',
      help: 'Sandboxes that have not been destroyed, by state.',
      labelNames: ['state'] as const,
      registers: [this.#registry],
      async collect() {
        this.reset();
        for (const [state, count] of await sandboxes.countByState()) this.set({ state }, count);
      },
    });
    collectDefaultMetrics({ register: this.#registry });
  }

  /** Starts to measure an operation; the returned function stops. Undefined is not measured. */
  startOperation(operation: string | undefined): (outcome: string) => void {
    if (operation === undefined) return () => undefined;
    if (operation === 'create') {
      const finished = this.#createDuration.startTimer();
      return (outcome) => void finished({ outcome });
    }
    const finished = this.#operationDuration.startTimer({ operation });
    return (outcome) => void finished({ outcome });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The Prometheus text format. */
  text(): Promise<string> {
    return this.#registry.metrics();
  }

  close(): void {
    this.#registry.clear();
  }
}
