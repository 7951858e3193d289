import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

const BOOTSTRAP = new URL('./bootstrap.mjs', import.meta.url).href;

let checkout: string;

beforeEach(async () => {
  checkout = await mkdtemp(join(tmpdir(), 'torpor-bootstrap-'));
  await writeFile(join(checkout, 'package.json'), '{"name":"x","version":"1.0.0"}');
  await writeLock({});
});
afterEach(() => rm(checkout, { recursive: true }));

/** Writes a lock file with these packages. */
async function writeLock(packages: Record<string, object>): Promise<void> {
  const root = { name: 'x', version: '1.0.0' };
  const lock = { ...root, lockfileVersion: 3, packages: { '': root, ...packages } };
  await writeFile(join(checkout, 'package-lock.json'), JSON.stringify(lock));
}

/** Runs `ensureDependencies` in a separate process, with an npm that only records that it was called. */
async function ensure(): Promise<{ result: string; npmCalled: boolean }> {
  const npm = join(checkout, 'npm.js');
  await writeFile(
    npm,
    `require('fs').mkdirSync('node_modules', { recursive: true });
     require('fs').writeFileSync('npm-was-called', process.argv.slice(2).join(' '));`,
  );
  const script = `import { ensureDependencies } from ${JSON.stringify(BOOTSTRAP)};
    process.stdout.write(ensureDependencies(${JSON.stringify(checkout)}));`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    env: { ...process.env, npm_execpath: npm },
  });
  const result = (await child.stdout.toArray()).join('');
  const called = join(checkout, 'npm-was-called');
  const npmCalled = await readFile(called, 'utf8').then(
    (text) => text.startsWith('ci'),
    () => false,
  );
  await rm(called, { force: true });
  return { result, npmCalled };
}

test('packages are installed once, and again when the lock changes', async () => {
  expect(await ensure()).toEqual({ result: 'installed', npmCalled: true });
  expect(await ensure()).toEqual({ result: 'present', npmCalled: false });
  await writeLock({ 'node_modules/a': { version: '1.0.0', integrity: 'sha512-a' } });
  expect(await ensure()).toEqual({ result: 'installed', npmCalled: true });
});

test('a workspace that is not linked yet is linked, even if all packages are installed', async () => {
  const link = { resolved: 'packages/x', link: true };
  await writeLock({ 'node_modules/@y/x': link });
  expect(await ensure()).toEqual({ result: 'installed', npmCalled: true });
  expect(await ensure()).toEqual({ result: 'installed', npmCalled: true });
  await mkdir(join(checkout, 'packages/x'), { recursive: true });
  await mkdir(join(checkout, 'node_modules/@y'));
  await symlink('../../packages/x', join(checkout, 'node_modules/@y/x'));
  expect(await ensure()).toEqual({ result: 'present', npmCalled: false });
});

test('packages from `npm install` are accepted if they match the lock', async () => {
  const a = { version: '1.0.0', integrity: 'sha512-a' };
  const forAnotherPlatform = { version: '1.0.0', integrity: 'sha512-b', optional: true };
  await writeLock({ 'node_modules/a': a, 'node_modules/b': forAnotherPlatform });
  await mkdir(join(checkout, 'node_modules'));
  const installed = join(checkout, 'node_modules/.package-lock.json');
  await writeFile(installed, JSON.stringify({ packages: { 'node_modules/a': a } }));
  expect(await ensure()).toEqual({ result: 'present', npmCalled: false });

  await writeLock({ 'node_modules/a': { ...a, version: '1.0.1' } });
  expect(await ensure()).toEqual({ result: 'installed', npmCalled: true });
});
