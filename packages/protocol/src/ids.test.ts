import { describe, expect, test } from 'vitest';
import { canonicalApiKey, isId, newApiKey, newId } from './ids.ts';

describe('ids', () => {
  test('a sandbox id fits into a host name label and is recognised', () => {
    const ids = Array.from({ length: 1000 }, () => newId('sandbox'));
    for (const id of ids) {
      expect(id).toMatch(/^sb[a-z0-9]{20}$/);
      expect(isId('sandbox', id)).toBe(true);
    }
    expect(new Set(ids).size).toBe(ids.length);
  });

  test.each([
    '',
    'sb',
    'sb-12345678901234567890',
    'sbABCDEFGHIJKLMNOPQRST',
    'xx12345678901234567890',
  ])('%j is not a sandbox id', (value) => expect(isId('sandbox', value)).toBe(false));
});

describe('API keys', () => {
  test('the e2b_ spelling of a key is the same key', () => {
    const key = newApiKey();
    expect(canonicalApiKey(key)).toBe(key);
    expect(canonicalApiKey(key.replace('tpr_', 'e2b_'))).toBe(key);
  });

  test.each(['', 'tpr_', 'tpr_xyz', `tpr_${'A'.repeat(40)}`, `wrn_${'0'.repeat(40)}`])(
    '%j is not an API key',
    (value) => expect(canonicalApiKey(value)).toBeUndefined(),
  );
});
