import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Tracer } from '@torpor/protocol';
import { Collector } from '@torpor/testkit/collector';
import { recordingLogger } from '@torpor/testkit/control-plane';
import { describe, expect, test } from 'vitest';
import { startTracing, type TracingOptions, type TracingSettings } from './index.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const SPAN = 'b7ad6b7169203331';
const SAMPLED = { traceparent: `00-${TRACE}-${SPAN}-01`, tracestate: 'vendor=x' };
const NOT_SAMPLED = { traceparent: `00-${TRACE}-${SPAN}-00` };
/** Nothing listens there. */
const NOWHERE = 'http://127.0.0.1:1';

async function start(settings: TracingSettings, timing: TracingOptions['timing'] = {}) {
  const { logger, text } = recordingLogger();
  const tracing = await startTracing({
    settings,
    defaultServiceName: 'torpor',
    version: '1.2.3',
    logger,
    timing: { batchDelayMs: 10, exportTimeoutMs: 200, closeTimeoutMs: 300, ...timing },
  });
  const lines = () =>
    text()
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as { msg: string; reason?: string });
  const tracer = tracing.tracer('test');
  const logged = () => lines().map(({ msg }) => msg);
  return { tracing, tracer, lines, logged, [Symbol.asyncDispose]: () => tracing.close() };
}

function record(tracer: Tracer, name = 'work') {
  tracer.start(name)?.end();
}

describe('spans are exported', () => {
  test('as protobuf, unless JSON is asked for, with the headers of the settings', async () => {
    await using collector = await Collector.start();
    for (const protocol of [undefined, 'http/json'] as const) {
      const headers = 'api-key=a%3Db,x-team=7';
      await using traces = await start({ endpoint: `${collector.url}/otlp/`, protocol, headers });
      const span = traces.tracer.start('work', { caller: SAMPLED });
      span?.end();
    }
    const [binary, json] = collector.requests;
    expect(binary?.headers).toMatchObject({
      'content-type': 'application/x-protobuf',
      'api-key': 'a=b',
      'x-team': '7',
    });
    expect(binary?.body.includes(Buffer.from(TRACE, 'hex'))).toBe(true);
    expect(json?.headers['content-type']).toBe('application/json');
    expect(collector.requests.map(({ path }) => path)).toEqual([
      '/otlp/v1/traces',
      '/otlp/v1/traces',
    ]);
    expect(collector.spans).toMatchObject([
      { name: 'work', traceId: TRACE, parentSpanId: SPAN, scope: 'torpor.test' },
    ]);
  });

  test('to the address for traces as it is, in the name of the service that is set', async () => {
    await using collector = await Collector.start();
    {
      await using traces = await start({
        endpoint: NOWHERE,
        tracesEndpoint: `${collector.url}/traces?key=1`,
        protocol: 'http/json',
        serviceName: 'mine',
      });
      record(traces.tracer);
      expect(JSON.stringify(traces.lines())).not.toContain('key=1');
    }
    expect(collector.requests.map(({ path }) => path)).toEqual(['/traces?key=1']);
    expect(collector.spans[0]?.resource).toMatchObject({
      'service.name': 'mine',
      'service.version': '1.2.3',
    });
  });

  test('with their parents, attributes and errors, of which only the code', async () => {
    await using collector = await Collector.start();
    {
      await using traces = await start({ endpoint: collector.url, protocol: 'http/json' });
      const parent = traces.tracer.start('parent', { kind: 'server', caller: SAMPLED });
      const child = parent?.child('child', {
        runningForMs: 1000,
        attributes: { a: 1, b: undefined },
      });
      expect(child?.headers.traceparent).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
      expect(child?.headers.tracestate).toBe('vendor=x');
      child?.end(new Error('a secret of the user'));
      child?.end();
      parent?.end();
    }
    const [child, parent] = collector.spans;
    expect(child).toMatchObject({
      parentSpanId: parent?.spanId,
      failed: true,
      attributes: { a: 1, 'error.type': 'internal_error' },
    });
    expect(Number((child?.endNs ?? 0n) - (child?.startNs ?? 0n)) / 1e9).toBeGreaterThanOrEqual(1);
    expect(parent).toMatchObject({ kind: 2, parentSpanId: SPAN, failed: false });
    expect(collector.requests.map(({ body }) => body.toString()).join()).not.toContain('secret');
  });
});

describe('which traces are exported', () => {
  test.each([
    [undefined, undefined, ['own', 'sampled']],
    ['always_on', undefined, ['own', 'sampled', 'not sampled']],
    ['always_off', undefined, []],
    ['parentbased_always_off', undefined, ['sampled']],
    ['parentbased_traceidratio', '0', ['sampled']],
    ['traceidratio', '1', ['own', 'sampled', 'not sampled']],
    ['traceidratio', '0', []],
    // As without the setting; both are logged.
    ['jaeger_remote', undefined, ['own', 'sampled']],
    ['traceidratio', '7', ['own', 'sampled']],
  ])('with the sampler %s and the argument %s: %j', async (sampler, samplerArgument, names) => {
    await using collector = await Collector.start();
    const settings = { endpoint: collector.url, protocol: 'http/json', sampler, samplerArgument };
    await using traces = await start(settings);
    record(traces.tracer, 'own');
    traces.tracer.start('sampled', { caller: SAMPLED })?.end();
    traces.tracer.start('not sampled', { caller: NOT_SAMPLED })?.end();
    await traces.tracing.close();
    expect(collector.spans.map(({ name }) => name)).toEqual(names);
    const isUnknown = sampler === 'jaeger_remote' || samplerArgument === '7';
    expect(traces.logged().some((line) => line.startsWith('Unknown sampler'))).toBe(isUnknown);
  });
});

describe('a collector', () => {
  test('that cannot be reached, and can be again, is logged once each', async () => {
    const first = await Collector.start();
    const { url } = first;
    await first[Symbol.asyncDispose]();
    await using traces = await start({ endpoint: url, protocol: 'http/json' });
    const attempts = () => traces.logged().length;
    for (let i = 0; i < 3; i++) {
      record(traces.tracer);
      await expect.poll(attempts).toBe(2);
    }
    await using collector = await Collector.start(Number(new URL(url).port));
    await expect
      .poll(() => {
        record(traces.tracer, 'later');
        return traces.logged();
      })
      .toEqual(['Traces are exported', 'Traces cannot be exported', 'Traces are exported again']);
    expect(collector.spans.at(-1)?.name).toBe('later');
  });

  test.each([401, 500, 503])('that responds with %i is logged', async (status) => {
    await using collector = await Collector.start();
    collector.mode = status;
    await using traces = await start({ endpoint: collector.url });
    record(traces.tracer);
    await expect.poll(traces.logged).toContain('Traces cannot be exported');
  });

  test('that hangs delays neither what is traced nor, by more than a limit, the stop', async () => {
    await using collector = await Collector.start();
    collector.mode = 'hang';
    await using traces = await start({ endpoint: collector.url }, { exportTimeoutMs: 600_000 });
    record(traces.tracer);
    await expect.poll(() => collector.requests.length).toBe(1);
    // More than are kept: the oldest that wait are exported, the others are dropped.
    for (let i = 0; i < 10_000; i++) record(traces.tracer);
    await traces.tracing.close();
    expect(traces.logged()).toEqual(['Traces are exported', 'The last traces were not exported']);
  });
});

describe('nothing is exported', () => {
  test.each([
    ['without an endpoint', {}, undefined],
    ['with the exporter none', { endpoint: NOWHERE, exporter: 'none' }, undefined],
    ['with another exporter', { endpoint: NOWHERE, exporter: 'zipkin' }, /EXPORTER is zipkin/],
    ['over gRPC', { endpoint: 'http://127.0.0.1:4317', protocol: 'grpc' }, /PROTOCOL is grpc/],
    ['to what is no URL', { endpoint: 'user:secret@host' }, /^The endpoint is no http/],
    ['to what is no web server', { tracesEndpoint: 'ftp://h' }, /^The endpoint is no http/],
  ])('%s, and a trace of a caller is passed on', async (_, settings, reason) => {
    await using traces = await start(settings);
    expect(traces.tracer.start('work')).toBeUndefined();
    expect(traces.tracer.start('work', { caller: SAMPLED })?.headers).toEqual(SAMPLED);
    const lines = traces.lines();
    expect(JSON.stringify(lines)).not.toContain('secret');
    if (reason === undefined) return expect(lines).toEqual([]);
    expect(lines).toMatchObject([{ msg: 'Traces are not exported' }]);
    expect(lines[0]?.reason).toMatch(reason);
  });

  /** The modules of OpenTelemetry, without its interface, that a process with all of the server has loaded. */
  async function loadedModules(settings: TracingSettings): Promise<string[]> {
    const program = `
      import { createRequire } from 'node:module';
      for (const name of ['agent', 'control-plane', 'sdk', 'cli']) await import('@torpor/' + name);
      const { startTracing } = await import('@torpor/telemetry');
      await startTracing({
        settings: ${JSON.stringify(settings)},
        logger: { info() {}, warn() {}, error() {} },
        defaultServiceName: 'torpor',
        version: '0',
      });
      console.log(JSON.stringify(Object.keys(createRequire(import.meta.url).cache)));
      process.exit();`;
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--input-type=module', '-e', program],
      { cwd: import.meta.dirname },
    );
    const modules = JSON.parse(stdout) as string[];
    // prom-client loads the interface, `api`, with or without traces.
    return modules.filter((each) => /@opentelemetry\/(?!api\/)/.test(each));
  }

  test('and then OpenTelemetry is not loaded', async () => {
    expect(await loadedModules({})).toEqual([]);
    expect((await loadedModules({ endpoint: NOWHERE })).length).toBeGreaterThan(100);
  });
});
