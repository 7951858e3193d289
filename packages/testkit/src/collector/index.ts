/** A collector of traces, as far as tests need one: OTLP over HTTP, with spans in JSON. */
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

type AttributeValue = string | number | boolean;

export interface CollectedSpan {
  readonly name: string;
  /** As in opentelemetry/proto/trace/v1: 1 internal, 2 server, 3 client. */
  readonly kind: number;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string | undefined;
  readonly startNs: bigint;
  readonly endNs: bigint;
  readonly failed: boolean;
  readonly attributes: Readonly<Record<string, AttributeValue>>;
  readonly scope: string;
  readonly resource: Readonly<Record<string, AttributeValue>>;
}

interface Export {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

const ERROR_STATUS = 2;

export class Collector implements AsyncDisposable {
  readonly url: string;
  /** Every request, also those that were not accepted. */
  readonly requests: Export[] = [];
  readonly spans: CollectedSpan[] = [];
  /** `hang`: never responds. A number is the status of the responses. */
  mode: 'accept' | 'hang' | number = 'accept';
  readonly #server: Server;

  /** `port`: that of an earlier one; a free one if omitted. */
  static async start(port = 0): Promise<Collector> {
    const server = createServer().listen(port, '127.0.0.1');
    await once(server, 'listening');
    return new Collector(server);
  }

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('request', async (request, response) => {
      const body = Buffer.concat(await Array.fromAsync<Buffer>(request));
      this.requests.push({ path: request.url ?? '', headers: request.headers, body });
      if (this.mode === 'hang') return;
      if (this.mode !== 'accept') return void response.writeHead(this.mode).end();
      if (request.headers['content-type'] === 'application/json') this.#add(body);
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    });
  }

  #add(body: Buffer): void {
    const { resourceSpans } = JSON.parse(body.toString()) as OtlpTraces;
    for (const { resource, scopeSpans } of resourceSpans) {
      for (const { scope, spans } of scopeSpans) {
        const from = { scope: scope.name, resource: attributesOf(resource) };
        this.spans.push(...spans.map((span) => ({ ...spanOf(span), ...from })));
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

interface OtlpAttributes {
  readonly attributes?: readonly {
    readonly key: string;
    readonly value: {
      readonly stringValue?: string;
      readonly intValue?: number | string;
      readonly doubleValue?: number;
      readonly boolValue?: boolean;
    };
  }[];
}

interface OtlpSpan extends OtlpAttributes {
  readonly name: string;
  readonly kind: number;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly status?: { readonly code?: number };
}

interface OtlpTraces {
  readonly resourceSpans: readonly {
    readonly resource: OtlpAttributes;
    readonly scopeSpans: readonly {
      readonly scope: { readonly name: string };
      readonly spans: readonly OtlpSpan[];
    }[];
  }[];
}

function spanOf(span: OtlpSpan) {
  return {
    name: span.name,
    kind: span.kind,
    traceId: span.traceId,
    spanId: span.spanId,
    parentSpanId: span.parentSpanId || undefined,
    startNs: BigInt(span.startTimeUnixNano),
    endNs: BigInt(span.endTimeUnixNano),
    failed: span.status?.code === ERROR_STATUS,
    attributes: attributesOf(span),
  };
}

function attributesOf({ attributes = [] }: OtlpAttributes): Record<string, AttributeValue> {
  return Object.fromEntries(
    attributes.map(({ key, value }) => [
      key,
      value.stringValue ??
        value.doubleValue ??
        value.boolValue ??
        (value.intValue === undefined ? '' : Number(value.intValue)),
    ]),
  );
}
