import { writeFile } from 'node:fs/promises';
import { CATALOGUE_FILE, renderCatalogue } from './render.ts';

await writeFile(CATALOGUE_FILE, renderCatalogue());
