import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace';
import type { Logger } from 'pino';

type ExportDone = Parameters<SpanExporter['export']>[1];
type ExportResult = Parameters<ExportDone>[0];

/** `ExportResultCode.SUCCESS` of OpenTelemetry. */
const SUCCESS = 0;

/** Logs when a collector can no longer be reached, and when it can be again; not every attempt. */
export class ReportingExporter implements SpanExporter {
  /** Its address, without what may be secret. */
  readonly collector: string;
  readonly #exporter: SpanExporter;
  readonly #logger: Logger;
  #failing = false;
  #lostSpans = 0;

  constructor(exporter: SpanExporter, { url, logger }: { url: URL; logger: Logger }) {
    this.#exporter = exporter;
    this.#logger = logger;
    this.collector = `${url.origin}${url.pathname}`;
  }

  export(spans: ReadableSpan[], done: ExportDone): void {
    this.#exporter.export(spans, (result) => {
      this.#report(result, spans.length);
      done(result);
    });
  }

  forceFlush(): Promise<void> {
    return this.#exporter.forceFlush?.() ?? Promise.resolve();
  }

  shutdown(): Promise<void> {
    return this.#exporter.shutdown();
  }

  #report({ code, error }: ExportResult, spans: number): void {
    const { collector } = this;
    if (code !== SUCCESS) {
      this.#lostSpans += spans;
      if (this.#failing) return;
      this.#failing = true;
      this.#logger.warn({ collector, reason: error?.message }, 'Traces cannot be exported');
    } else if (this.#failing) {
      this.#failing = false;
      this.#logger.info({ collector, lostSpans: this.#lostSpans }, 'Traces are exported again');
      this.#lostSpans = 0;
    }
  }
}
