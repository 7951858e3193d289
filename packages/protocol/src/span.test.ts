import { describe, expect, test } from 'vitest';
import {
  currentSpan,
  FORWARDING_TRACER,
  formatTraceParent,
  parseTraceParent,
  runInSpan,
  runOutsideRequest,
  traceHeadersOf,
  traceWork,
} from './index.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const SPAN = 'b7ad6b7169203331';
const VALID = `00-${TRACE}-${SPAN}-01`;

describe('a traceparent', () => {
  test.each([
    [VALID, VALID],
    [`00-${TRACE}-${SPAN}-00`, `00-${TRACE}-${SPAN}-00`],
    // Flags that this version does not have are not passed on.
    [`00-${TRACE}-${SPAN}-ff`, `00-${TRACE}-${SPAN}-03`],
    // A later version is continued in ours.
    [`cc-${TRACE}-${SPAN}-01-what-the-future-brings`, VALID],
  ])('%s is continued as %s', (text, continued) => {
    const parent = parseTraceParent(text);
    expect(parent && formatTraceParent(parent)).toBe(continued);
  });

  test.each([
    '',
    'nonsense',
    `ff-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01-more`,
    `00-${TRACE}-${SPAN}`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${TRACE.slice(1)}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01, 00-${TRACE}-${SPAN}-01`,
  ])('%j starts a new trace', (text) => expect(parseTraceParent(text)).toBeUndefined());
});

test.each([
  [{ traceparent: VALID }, { traceparent: VALID }],
  [
    { traceparent: VALID, tracestate: 'a=1,b=2' },
    { traceparent: VALID, tracestate: 'a=1,b=2' },
  ],
  [{ traceparent: VALID, tracestate: 'a'.repeat(513) }, { traceparent: VALID }],
  [{ traceparent: ` ${VALID} ` }, { traceparent: VALID }],
  [{ tracestate: 'a=1' }, undefined],
  [{ traceparent: 'nonsense', tracestate: 'a=1' }, undefined],
])('the headers %j continue the trace %j', (headers: Record<string, string>, expected) => {
  expect(traceHeadersOf((name) => headers[name])).toEqual(expected);
});

test('without an exporter the trace of a caller is passed on, and none is started', async () => {
  expect(FORWARDING_TRACER.start('request')).toBeUndefined();
  await traceWork(FORWARDING_TRACER, 'own work', {}, async (span) => {
    expect([span, currentSpan()]).toEqual([undefined, undefined]);
  });
  const caller = { traceparent: VALID, tracestate: 'a=1' };
  const span = FORWARDING_TRACER.start('request', { caller });
  if (span === undefined) throw new Error('not passed on');
  expect(span.traceId).toBe(TRACE);
  await runInSpan(span, async () => {
    expect(currentSpan()?.child('call').headers).toEqual(caller);
    expect(runOutsideRequest(currentSpan)).toBeUndefined();
  });
});
