import { writeFile } from 'node:fs/promises';
import { OPENAPI_FILE, renderOpenApi } from './render.ts';

await writeFile(OPENAPI_FILE, await renderOpenApi());
