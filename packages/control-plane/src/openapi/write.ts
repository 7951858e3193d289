import { mkdir, writeFile } from 'node:fs/promises';
import { OPENAPI_FILE, renderOpenApi } from './render.ts';

await mkdir(new URL('.', OPENAPI_FILE), { recursive: true });
await writeFile(OPENAPI_FILE, await renderOpenApi());
