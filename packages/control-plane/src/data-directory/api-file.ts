import { mkdir, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { writePrivateFile } from './private-file.ts';

/** Where the API of a data directory is served; the command line finds it here. */
export const apiFileSchema = z.strictObject({ url: z.string(), pid: z.int() });

export type ApiFile = z.infer<typeof apiFileSchema>;

function apiFilePath(dataDir: string): string {
  return join(dataDir, 'run', 'api.json');
}

/** Records that this process serves the API at `url`. */
export async function publishApiFile(dataDir: string, url: string): Promise<void> {
  const path = apiFilePath(dataDir);
  await mkdir(dirname(path), { recursive: true, mode: 0o711 });
  const content: ApiFile = { url, pid: process.pid };
  await writePrivateFile(path, `${JSON.stringify(content)}\n`);
}

/** Removes the file of {@link publishApiFile}, unless another process has published its own since. */
export async function withdrawApiFile(dataDir: string): Promise<void> {
  const path = apiFilePath(dataDir);
  const content = await readFile(path, 'utf8').catch(() => '{}');
  const parsed = apiFileSchema.safeParse(parseJson(content));
  if (parsed.success && parsed.data.pid === process.pid) await rm(path, { force: true });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
