import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseSync } from 'vite';
import { describe, expect, test } from 'vitest';

const PACKAGES = fileURLToPath(new URL('../../packages/', import.meta.url));

/** The folders of the control plane that know no dialect of the API: all but those that speak one. */
const DIALECTS = new Set(['http', 'openapi', 'streams', 'errors']);

/** What the operator of a host types there; errors for every client may name these. */
const HOST_COMMANDS = new Set([
  'up',
  'control-plane',
  'agent',
  'setup',
  'doctor',
  'config',
  'env',
  'image',
]);

/** What a module imports, as `specifier` and `specifier#name`. */
function importedNames(path: string, text: string): string[] {
  return parseSync(path, text).module.staticImports.flatMap(({ moduleRequest, entries }) => [
    moduleRequest.value,
    ...entries.map(({ importName }) => `${moduleRequest.value}#${importName.name}`),
  ]);
}

async function productionSources(folder: string): Promise<{ path: string; text: string }[]> {
  const paths = await readdir(folder, { recursive: true });
  const sources = paths.filter(
    (path) => /(?<!\.test)\.ts$/.test(path) && !/node_modules|(?:^|\/)gen\//.test(path),
  );
  return Promise.all(
    sources.map(async (path) => ({ path, text: await readFile(join(folder, path), 'utf8') })),
  );
}

describe('dialects', () => {
  const DIALECT = /^(?:hono|@hono\/.*|ws)$|^@torpor\/protocol(?:\/rest$|#rest$)/;

  test.each([
    ["import { rest } from '@torpor/protocol';", true],
    ["import { type rest, TorporError } from '@torpor/protocol';", true],
    ["import * as rest from '@torpor/protocol/rest';", true],
    ["import type { Context } from 'hono';", true],
    ["import { OpenAPIHono } from '@hono/zod-openapi';", true],
    ["import { TorporError } from '@torpor/protocol';", false],
  ])('%s is an import of one: %s', (text, expected) => {
    expect(importedNames('service.ts', text).some((name) => DIALECT.test(name))).toBe(expected);
  });

  test('services import none', async () => {
    const folder = join(PACKAGES, 'control-plane/src');
    const sources = await productionSources(folder);
    const services = sources.filter(
      ({ path }) => path.includes('/') && !DIALECTS.has(path.split('/')[0] ?? ''),
    );
    expect(services.map(({ path }) => path)).toContain('sandboxes/service.ts');
    const misused = services.flatMap(({ path, text }) =>
      importedNames(path, text)
        .filter((name) => DIALECT.test(name))
        .map((name) => `${path} imports ${name}`),
    );
    expect(misused).toEqual([]);
  });

  test('only the command line names its commands, but for those of the operator of a host', async () => {
    const packages = (await readdir(PACKAGES)).filter((name) => name !== 'cli');
    const named = await Promise.all(
      packages.map(async (name) => {
        const sources = await productionSources(join(PACKAGES, name, 'src'));
        return sources.flatMap(({ path, text }) =>
          [...text.matchAll(/`torpor ([a-z][a-z-]*)/g)]
            .filter(([, command = '']) => !HOST_COMMANDS.has(command))
            .map(([found]) => `${name}/src/${path}: ${found}`),
        );
      }),
    );
    expect(named.flat()).toEqual([]);
  });
});
