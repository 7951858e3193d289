import { cli } from '@torpor/testkit/cli';
import { expect, test } from 'vitest';

test.each([
  ['soon', /It must be a time such as 30s, 5m or 2h\./],
  ['0', /It must be a time from 100ms to 1h\./],
  ['2h', /It must be a time from 100ms to 1h\./],
])('torpor up refuses %j before it does anything, in a sentence', async (value, remedy) => {
  const env = { TORPOR_DATA_DIR: '/nonexistent/torpor', TORPOR_GUEST_TIMEOUT: value };
  const byVariable = await cli(['up'], { env });
  expect(byVariable).toMatchObject({ exitCode: 2, stdout: '' });
  expect(byVariable.stderr).toContain(`TORPOR_GUEST_TIMEOUT has the invalid value "${value}".`);
  expect(byVariable.stderr).toMatch(remedy);
  const byOption = await cli(['up', '--guest-timeout', value], { env: {} });
  expect(byOption).toMatchObject({ exitCode: 2, stdout: '' });
  expect(byOption.stderr).toContain(`--guest-timeout has the invalid value "${value}".`);
  expect(byOption.stderr).toMatch(remedy);
});

test('the help of torpor up describes it', async () => {
  const { stdout } = await cli(['up', '--help']);
  expect(stdout).toMatch(/--guest-timeout <time>/);
  expect(stdout).toMatch(/TORPOR_GUEST_TIMEOUT/);
});
