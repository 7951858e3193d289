import { expect, test } from 'vitest';
import { hashPassword, verifyPassword } from './passwords.ts';

test.each([
  ['short', 'hunter2!'],
  ['longer than the 72 bytes that bcrypt reads', 'x'.repeat(72)],
  ['of 256 characters of four bytes', '😀'.repeat(128)],
  ['with a NUL, which ends a string of C', 'abc\0defgh'],
])(
  'a password that is %s verifies, and one that differs at its end does not',
  async (_, password) => {
    const hash = await hashPassword(password);
    expect(await verifyPassword(password, hash)).toBe(true);
    expect(await verifyPassword(`${password}x`, hash)).toBe(false);
    expect(await verifyPassword(`${password.slice(0, -2)}zz`, hash)).toBe(false);
    expect(hash).not.toContain(password);
  },
);

test('a password verifies however its characters are composed', async () => {
  const hash = await hashPassword('caf\u00e9 noir');
  expect(await verifyPassword('cafe\u0301 noir', hash)).toBe(true);
});

test('the same password has another hash each time', async () => {
  expect(await hashPassword('same same')).not.toBe(await hashPassword('same same'));
});

test('nothing verifies where there is no password', async () => {
  for (const hash of [null, undefined]) {
    for (const password of ['', 'null', 'undefined']) {
      expect(await verifyPassword(password, hash)).toBe(false);
    }
  }
});

test('a password that would wait too long is refused at once, and others are checked', async () => {
  const cheapHash = `scrypt$1$1$1$c2FsdA$${Buffer.alloc(32).toString('base64url')}`;
  const burst = Array.from({ length: 100 }, () => verifyPassword('guess', cheapHash));
  const outcomes = await Promise.allSettled(burst);
  const reasons = outcomes.flatMap((outcome) =>
    outcome.status === 'rejected' ? [outcome.reason] : [],
  );
  expect(reasons).toHaveLength(100 - 34);
  expect(reasons[0]).toMatchObject({ code: 'rate_limited', retryAfterSec: 5 });
  expect(await verifyPassword('guess', await hashPassword('guess'))).toBe(true);
});
