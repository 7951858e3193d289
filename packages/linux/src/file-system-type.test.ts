import { expect, it } from 'vitest';
import { fileSystemType } from './file-system-type.ts';

it('distinguishes disks from pseudo file systems', async () => {
  expect(await fileSystemType(import.meta.dirname)).toEqual({ kind: 'local' });
  expect(await fileSystemType('/proc')).toEqual({ kind: 'kernel' });
  expect(await fileSystemType('/sys')).toEqual({ kind: 'kernel' });
  await expect(fileSystemType('/none')).rejects.toThrow('ENOENT');
});
