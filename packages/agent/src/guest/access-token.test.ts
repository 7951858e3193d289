import { expect, test } from 'vitest';
import { GuestSecrets } from './access-token.ts';

const secrets = new GuestSecrets(Buffer.alloc(32, 1));

test('each sandbox has a token of its own, the same after a restart', () => {
  expect(secrets.accessToken('a')).toMatch(/^[0-9a-f]{64}$/);
  expect(secrets.accessToken('a')).toBe(new GuestSecrets(Buffer.alloc(32, 1)).accessToken('a'));
  expect(secrets.accessToken('a')).not.toBe(secrets.accessToken('b'));
  expect(secrets.accessToken('a')).not.toBe(new GuestSecrets(Buffer.alloc(32, 2)).accessToken('a'));
});

test('the machine id reveals nothing about the token', () => {
  expect(secrets.machineId('a')).toMatch(/^[0-9a-f]{32}$/);
  expect(secrets.accessToken('a')).not.toContain(secrets.machineId('a'));
});
