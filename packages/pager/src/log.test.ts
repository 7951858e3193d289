import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';

const LOG = new URL('./log.ts', import.meta.url).href;

test('a log that is too large is truncated, a smaller one is continued', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-pager-log-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const path = join(directory, 'log');
  const logTo = (vm: string) => {
    const script = `import { log } from '${LOG}'; log('info', 'VM released', { vm: '${vm}' });`;
    const fd = openSync(path, 'a');
    const args = ['--input-type=module', '-e', script];
    const { status } = spawnSync(process.execPath, args, { stdio: ['ignore', 'ignore', fd] });
    closeSync(fd);
    expect(status).toBe(0);
  };
  const vms = async () => {
    const lines = (await readFile(path, 'utf8')).trim().split('\n');
    return lines.map((line) => JSON.parse(line).vm);
  };
  await writeFile(path, '');
  logTo('one');
  logTo('two');
  expect(await vms()).toEqual(['one', 'two']);
  await truncate(path, 8 * 1024 * 1024 + 1);
  logTo('three');
  expect(await vms()).toEqual(['three']);
});
