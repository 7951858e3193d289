import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { OPENAPI_FILE, renderOpenApi } from './render.ts';

test('the committed OpenAPI file matches the code (npm run openapi -w @torpor/control-plane)', async () => {
  expect(await readFile(OPENAPI_FILE, 'utf8')).toBe(await renderOpenApi());
});

test('every operation is documented with its responses and errors', async () => {
  const document = JSON.parse(await renderOpenApi()) as {
    paths: Record<string, Record<string, { operationId: string; responses: object }>>;
  };
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
  const ids = operations.map((operation) => operation.operationId);
  expect(new Set(ids).size).toBe(ids.length);
  expect(ids).toEqual(
    expect.arrayContaining(['createSandbox', 'listSandboxes', 'exec', 'uploadFile', 'health']),
  );
  for (const operation of operations) expect(operation.responses).toHaveProperty('default');
});
