import { describe, expect, test } from 'vitest';
import { hostIdentity, hostIdOf, parseIdentity } from './identity.ts';
import { newJoinToken, parseJoinToken } from './join-token.ts';

const HOST = 'hoaaaaaaaaaaaaaaaaaaaa';

test.each([
  ['URI:torpor:control-plane', 'torpor:control-plane'],
  [`URI:torpor:host/${HOST}`, `torpor:host/${HOST}`],
  [undefined, undefined],
  ['', undefined],
  ['torpor:control-plane', undefined],
  ['DNS:torpor:control-plane', undefined],
  ['URI:torpor:control-plane, URI:torpor:host/a', undefined],
  [`URI:torpor:host/${HOST}, URI:torpor:control-plane`, undefined],
  ['URI:torpor:control-plane/1', undefined],
  ['URI:torpor:host/', undefined],
  ['URI:torpor:host/../control-plane', undefined],
  ['URI:torpor:control-plane\n', undefined],
])('a certificate with the names %j is for %j', (names, identity) => {
  expect(parseIdentity(names)).toBe(identity);
});

test('only the identity of a host names one', () => {
  expect(hostIdOf(hostIdentity(HOST))).toBe(HOST);
  expect(hostIdOf('torpor:control-plane')).toBeUndefined();
});

describe('join tokens', () => {
  const fingerprint = 'ab'.repeat(32);

  test('have a secret of their own and the fingerprint', () => {
    const token = newJoinToken(fingerprint);
    expect(newJoinToken(fingerprint)).not.toBe(token);
    expect(parseJoinToken(token)).toEqual({
      secret: expect.stringMatching(/^[0-9a-f]{40}$/),
      authorityFingerprint: fingerprint,
    });
  });

  test.each(['', 'tpj_', `tpr_${'0'.repeat(40)}`, `${newJoinToken(fingerprint)}0`])(
    '%j is none',
    (text) => {
      expect(parseJoinToken(text)).toBeUndefined();
    },
  );
});
