import { readdir, readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { ignoreMissing } from './ignore-missing.ts';

test('a missing file is undefined; any other error is thrown', async () => {
  expect(await readFile('/missing', 'utf8').catch(ignoreMissing)).toBeUndefined();
  await expect(readFile('/', 'utf8').catch(ignoreMissing)).rejects.toMatchObject({
    code: 'EISDIR',
  });
  await expect(readdir('/etc/passwd').catch(ignoreMissing)).rejects.toMatchObject({
    code: 'ENOTDIR',
  });
  expect(() => ignoreMissing('no error')).toThrow();
});
