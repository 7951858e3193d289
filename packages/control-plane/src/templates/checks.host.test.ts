/** In which order a request for a snapshot is checked: of two faults, the one that comes first is reported. */
import { newId } from '@torpor/protocol';
import { errorOf, type Harness, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let harness: Harness;
let running: string;
let destroyed: string;

beforeAll(async () => {
  harness = await startHarness();
  const sandboxes = [await harness.create(), await harness.create(), await harness.create()];
  const [first = '', second = '', third = ''] = sandboxes.map(({ id }) => id);
  running = first;
  destroyed = second;
  await harness.request(`/v1/sandboxes/${destroyed}`, { method: 'DELETE' });
  await harness.send('POST', '/v1/snapshots', { sandbox_id: third, name: 'taken' });
});
afterAll(() => harness[Symbol.asyncDispose]());

interface Request {
  readonly id: string | undefined;
  readonly name: string;
  readonly isJson: boolean;
  readonly hostIsDown: boolean;
}

interface Fault {
  readonly what: string;
  /** What of the request it is about. */
  readonly part: keyof Request;
  readonly value: () => Request[keyof Request];
  readonly error: object;
  /** The field that the error names first. */
  readonly field?: string;
}

const INVALID = { status: 400, code: 'invalid_request' };

/** In the order in which they are reported. */
const FAULTS: readonly Fault[] = [
  {
    what: 'invalid JSON',
    part: 'isJson',
    value: () => false,
    error: { ...INVALID, message: expect.stringContaining('JSON') },
  },
  { what: 'no id', part: 'id', value: () => undefined, error: INVALID, field: 'sandbox_id' },
  { what: 'an invalid id', part: 'id', value: () => '../etc', error: INVALID, field: 'sandbox_id' },
  { what: 'an unsafe name', part: 'name', value: () => '../etc', error: INVALID, field: 'name' },
  {
    what: 'the name of an image',
    part: 'name',
    value: () => 'base',
    error: { status: 409, code: 'name_reserved' },
  },
  {
    what: 'a name that is taken',
    part: 'name',
    value: () => 'taken',
    error: { status: 409, code: 'template_name_taken' },
  },
  {
    what: 'an unknown sandbox',
    part: 'id',
    value: () => newId('sandbox'),
    error: { status: 404, code: 'not_found' },
  },
  {
    what: 'a destroyed sandbox',
    part: 'id',
    value: () => destroyed,
    error: { status: 409, code: 'invalid_state' },
  },
  {
    what: 'a host that does not respond',
    part: 'hostIsDown',
    value: () => true,
    error: { status: 503, code: 'host_unavailable' },
  },
];

async function send(faults: readonly Fault[]) {
  const sound: Request = { id: running, name: 'free', isJson: true, hostIsDown: false };
  const parts = Object.fromEntries(faults.map(({ part, value }) => [part, value()]));
  const { id, name, isJson, hostIsDown } = { ...sound, ...parts };
  const body = JSON.stringify({ sandbox_id: id, name });
  if (hostIsDown) harness.agent.becomeUnreachable();
  try {
    const response = await harness.request('/v1/snapshots', {
      method: 'POST',
      body: isJson ? body : body.slice(0, -1),
    });
    return await errorOf(response);
  } finally {
    harness.agent.becomeReachable();
  }
}

const PAIRS = FAULTS.flatMap((first, index) =>
  FAULTS.slice(index + 1)
    .filter(({ part }) => part !== first.part)
    .map((second) => [first.what, second.what, first, second] as const),
);

function expectFault(error: Awaited<ReturnType<typeof send>>, { error: expected, field }: Fault) {
  expect(error).toMatchObject(expected);
  expect(error.issues?.[0]?.field).toBe(field);
}

test.each(FAULTS.map((fault) => [fault.what, fault] as const))('%s', async (_, fault) => {
  expectFault(await send([fault]), fault);
});

test.each(PAIRS)('%s is reported before %s', async (_first, _second, first, second) => {
  const calls = harness.agent.count('createSnapshot');
  expectFault(await send([first, second]), first);
  expect(harness.agent.count('createSnapshot')).toBe(calls);
});
