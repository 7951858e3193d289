import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { quoteForShell } from './env.ts';

test('a shell reads back any quoted value', () => {
  const value = fc
    .string({ unit: 'grapheme', maxLength: 40 })
    .map((text) => text.replaceAll('\0', ''));
  fc.assert(
    fc.property(fc.array(value, { minLength: 1, maxLength: 20 }), (values) => {
      const script = values.map((item) => `printf '%s\\0' ${quoteForShell(item)}`).join('\n');
      const output = execFileSync('sh', ['-c', script], { encoding: 'utf8' });
      expect(output).toBe(values.map((item) => `${item}\0`).join(''));
    }),
    { numRuns: 20 },
  );
});
