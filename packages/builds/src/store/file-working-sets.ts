import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { WorkingSets } from './build-store.ts';
import { replaceFile } from './durable.ts';

/** 2^20 numbers exceed any useful working set. */
const schema = z.strictObject({
  version: z.literal(1),
  windows: z
    .array(
      z
        .int()
        .min(0)
        .max(2 ** 32 - 1),
    )
    .max(2 ** 20)
    .refine((numbers) => numbers.length % 2 === 0),
});

/** Working sets as files, one per build. One that cannot be read is removed. */
export class FileWorkingSets implements WorkingSets {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async get(buildId: string): Promise<readonly number[] | undefined> {
    try {
      return schema.parse(JSON.parse(await readFile(this.#path(buildId), 'utf8'))).windows;
    } catch (error) {
      const isMissing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
      if (!isMissing) await rm(this.#path(buildId), { force: true });
      return undefined;
    }
  }

  async set(buildId: string, windows: readonly number[]): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    await replaceFile(this.#path(buildId), JSON.stringify({ version: 1, windows }));
  }

  /** Removes the working sets of all builds but these. */
  async retain(buildIds: ReadonlySet<string>): Promise<void> {
    const names = await readdir(this.#directory).catch(() => []);
    for (const name of names) {
      if (buildIds.has(name.replace(/\.json$/, ''))) continue;
      await rm(join(this.#directory, name), { force: true });
    }
  }

  #path(buildId: string): string {
    return join(this.#directory, `${buildId}.json`);
  }
}
