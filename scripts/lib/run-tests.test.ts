import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const RUN_TESTS = fileURLToPath(new URL('./run-tests.ts', import.meta.url));

test('an option that vitest does not have is refused with a sentence, before anything runs', async () => {
  const { promise, resolve } = Promise.withResolvers<{ failed: boolean; output: string }>();
  execFile(process.execPath, [RUN_TESTS, 'unit', '--wrongopt'], (error, stdout, stderr) =>
    resolve({ failed: error !== null, output: stdout + stderr }),
  );
  const { failed, output } = await promise;
  expect(failed).toBe(true);
  expect(output).toMatch(/vitest refuses the options: Unknown option `--wrongopt`\./);
  expect(output).not.toMatch(/^ {4}at /m);
});
