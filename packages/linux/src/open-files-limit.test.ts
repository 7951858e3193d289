import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { lowerOpenFilesLimit } from './open-files-limit.ts';

const limits = () =>
  execFileSync('sh', ['-c', 'ulimit -Sn; ulimit -Hn'], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map(Number);

test('programs start with the lowered soft limit, and may raise it again', () => {
  const [soft = 0, hard = 0] = limits();
  lowerOpenFilesLimit(soft - 1);
  expect(limits()).toEqual([soft - 1, hard]);
  lowerOpenFilesLimit(soft);
  expect(limits()).toEqual([soft - 1, hard]);
});
