import { createHmac } from 'node:crypto';
import { expect, test } from 'vitest';
import { verifySignature, verifyWebhook } from './verify-webhook.ts';

const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';

test('the example of the Standard Webhooks specification', () => {
  const headers = {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  };
  const body = '{"test": 2432232314}';
  const options = { toleranceMs: Number.POSITIVE_INFINITY };
  expect(() => verifySignature({ headers, body }, SECRET, options)).not.toThrow();
  expect(() => verifySignature({ headers, body }, SECRET, {})).toThrow('not sent just now');
});

const EVENT = JSON.stringify({
  id: '7',
  type: 'sandbox.create',
  status: 'success',
  team_id: 'tm1',
  resource: { type: 'sandbox', id: 'sb1' },
  actor: { type: 'system' },
  metadata: {},
  created_at: '2026-01-01T00:00:00.000Z',
});

function signed(body = EVENT, ageSec = 0) {
  const timestamp = String(Math.floor(Date.now() / 1000) - ageSec);
  const key = Buffer.from(SECRET.slice('whsec_'.length), 'base64');
  const signature = createHmac('sha256', key).update(`7.${timestamp}.${body}`).digest('base64');
  const headers = {
    'webhook-id': '7',
    'webhook-timestamp': timestamp,
    'webhook-signature': `v1,${signature}`,
  };
  return { headers, body };
}

test('what was sent just now is the event, whatever form headers and body have', () => {
  const { headers, body } = signed();
  const forms = [
    { headers, body },
    { headers: new Headers(headers), body: Buffer.from(body) },
    {
      headers: { ...headers, 'webhook-signature': `v1a,x v1,AAAA ${headers['webhook-signature']}` },
      body,
    },
    signed(EVENT, 200),
    signed(EVENT, -200),
  ];
  for (const form of forms) expect(verifyWebhook(form, SECRET)).toEqual(JSON.parse(EVENT));
});

test('what was changed, is sent again later, or is signed by someone else is refused', () => {
  const { headers, body } = signed();
  const changed = (change: Record<string, string | undefined>) => ({
    headers: { ...headers, ...change },
    body,
  });
  const now = Number(headers['webhook-timestamp']);
  const refused = [
    { headers, body: body.replace('sb1', 'sb2') },
    changed({ 'webhook-id': '8' }),
    changed({ 'webhook-timestamp': String(now + 1) }),
    changed({ 'webhook-signature': undefined }),
    changed({ 'webhook-signature': '' }),
    changed({ 'webhook-signature': headers['webhook-signature'].replace('v1,', 'v2,') }),
    { headers: {}, body },
    signed(EVENT, 301),
    signed(EVENT, -302),
  ];
  for (const request of refused) {
    expect(() => verifyWebhook(request, SECRET)).toThrow(
      expect.objectContaining({ code: 'unauthorized' }),
    );
  }
  const other = `whsec_${Buffer.alloc(32).toString('base64')}`;
  expect(() => verifyWebhook(signed(), other)).toThrow('not signed with the secret');
  expect(() => verifyWebhook(signed('{}'), SECRET)).toThrow('no event');
});
