import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const CONTROL_PLANE = fileURLToPath(new URL('../../packages/control-plane/src/', import.meta.url));
/** The service, its client's type, and what makes one. */
const CLIENT = /\b(?:HostClient|hostAgent\.HostAgentService|createStreamingClient|createClient)\b/;

test('only hosts/connection.ts has a client of an agent', async () => {
  const paths = await readdir(CONTROL_PLANE, { recursive: true });
  const sources = paths.filter((path) => /(?<!\.test)\.ts$/.test(path));
  const naming: string[] = [];
  for (const path of sources) {
    if (CLIENT.test(await readFile(join(CONTROL_PLANE, path), 'utf8'))) naming.push(path);
  }
  expect(naming).toEqual(['hosts/connection.ts']);
});
