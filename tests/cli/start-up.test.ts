import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
const LAUNCHER = fileURLToPath(new URL('../../packages/cli/bin/torpor', import.meta.url));
const PRELOAD = new URL('../support/loaded-modules.mjs', import.meta.url).href;

let directory: string;
const api = createServer((_request, response) => {
  response.setHeader('content-type', 'application/json').end('{"sandboxes":[]}');
});
let apiUrl: string;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'torpor-start-up-'));
  await new Promise<void>((resolve) => api.listen(0, '127.0.0.1', resolve));
  apiUrl = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
});
afterAll(() => {
  api.close();
  rmSync(directory, { recursive: true });
});

test('a link to the launcher works in any directory, also without Node on the PATH', () => {
  const link = join(directory, 'torpor');
  symlinkSync(LAUNCHER, link);
  const { status, stdout, stderr } = spawnSync(link, ['--version'], {
    cwd: '/',
    env: { PATH: '/usr/bin:/bin' },
    encoding: 'utf8',
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});

/** The packages that a command line loads. */
async function packagesOf(...args: string[]): Promise<Set<string>> {
  const urls = await modulesOf(LAUNCHER, args);
  return new Set(urls.flatMap((url) => PACKAGE.exec(url)?.slice(1) ?? []));
}

/** The URLs of the modules that a program loads. */
async function modulesOf(program: string, args: readonly string[]): Promise<string[]> {
  const log = join(directory, 'loaded');
  rmSync(log, { force: true });
  const { stderr } = await promisify(execFile)(program, args, {
    cwd: REPOSITORY,
    env: {
      ...process.env,
      NODE_OPTIONS: `--import ${PRELOAD}`,
      LOADED_MODULES: log,
      TORPOR_API_URL: apiUrl,
      TORPOR_API_KEY: `tpr_${'0'.repeat(40)}`,
    },
  });
  expect(stderr).toBe('');
  return readFileSync(log, 'utf8').split('\n');
}

const PACKAGE =
  /\/(?:node_modules\/(?:@torpor\/)?|packages\/)((?:@[^/]+\/)?[^/]+)\/(?!.*node_modules)/;

test.each([['--version'], ['--help'], ['exec', '--help'], ['cp', '--help']])(
  '%s %s loads only the CLI',
  async (...args) => {
    expect([...(await packagesOf(...args))].toSorted()).toEqual([
      'cli',
      'commander',
      'control-plane',
      'protocol',
      'sdk',
    ]);
  },
);

test('ls loads only what a request needs, and no code of streams, hosts or RPCs', async () => {
  expect([...(await packagesOf('ls'))].toSorted()).toEqual([
    'cli',
    'commander',
    'control-plane',
    'protocol',
    'sdk',
    'undici',
    'zod',
  ]);
});

test.each(['file-tree', 'guest-artifacts', 'host-setup'])(
  '@torpor/agent/%s loads nothing that runs sandboxes',
  async (entry) => {
    const script = 'await import(process.argv[1]); process.exit()';
    const args = ['--input-type=module', '-e', script, `@torpor/agent/${entry}`];
    const urls = await modulesOf(process.execPath, args);
    const folders = new Set(urls.flatMap((url) => /\/agent\/src\/([^/]+)\//.exec(url)?.[1] ?? []));
    expect(folders).toContain(entry);
    for (const folder of ['rpc', 'recovery', 'lifecycle', 'registry', 'machine', 'guest']) {
      expect(folders).not.toContain(folder);
    }
  },
);
