import { writeFile } from 'node:fs/promises';
import { REFERENCE_FILE, renderReference } from './render.ts';

await writeFile(REFERENCE_FILE, await renderReference());
