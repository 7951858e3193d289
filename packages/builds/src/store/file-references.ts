import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { BuildFormatError } from '../errors.ts';
import { isUuid } from '../uuid.ts';
import type { Reference, ReferenceKind, References } from './build-store.ts';
import { REPLACEMENT_SUFFIX, replaceFile, syncPath } from './durable.ts';

const FILE_PATTERN = /^(sandbox|template)~([A-Za-z0-9._-]{1,128})\.json$/;
const contents = z.strictObject({ buildId: z.string().refine(isUuid, 'not a build id') });

/** References as files, one each. */
export class FileReferences implements References {
  readonly #directory: string;
  readonly #byKey: Map<string, Reference>;
  /** Changes of one name are made one after the other, or an earlier one could win on disk. */
  readonly #changes = new Map<string, Promise<void>>();

  private constructor(directory: string, byKey: Map<string, Reference>) {
    this.#directory = directory;
    this.#byKey = byKey;
  }

  /** Reads all references. Throws BuildFormatError for a file that is not one. */
  static async open(directory: string): Promise<FileReferences> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const byKey = new Map<string, Reference>();
    for (const file of await readdir(directory)) {
      const path = join(directory, file);
      if (file.endsWith(REPLACEMENT_SUFFIX)) {
        await rm(path, { force: true });
        continue;
      }
      const reference = parseReference(file, await readFile(path, 'utf8'), path);
      byKey.set(keyOf(reference.kind, reference.name), reference);
    }
    return new FileReferences(directory, byKey);
  }

  all(): readonly Reference[] {
    return [...this.#byKey.values()];
  }

  get(kind: ReferenceKind, name: string): string | undefined {
    return this.#byKey.get(keyOf(kind, name))?.buildId;
  }

  async set(kind: ReferenceKind, name: string, buildId: string): Promise<void> {
    const key = keyOf(kind, name);
    if (!FILE_PATTERN.test(`${key}.json`))
      throw new RangeError(`${name} is not a valid reference name.`);
    await this.#change(key, async () => {
      // In memory first, so that a collection that runs meanwhile sees it.
      const before = this.#byKey.get(key);
      this.#byKey.set(key, { kind, name, buildId });
      try {
        await this.#write(key, buildId);
      } catch (error) {
        if (before === undefined) this.#byKey.delete(key);
        else this.#byKey.set(key, before);
        await this.#putBack(key, before);
        throw error;
      }
    });
  }

  async delete(kind: ReferenceKind, name: string): Promise<void> {
    const key = keyOf(kind, name);
    await this.#change(key, async () => {
      await rm(this.#path(key), { force: true });
      await syncPath(this.#directory);
      this.#byKey.delete(key);
    });
  }

  async #write(key: string, buildId: string): Promise<void> {
    await replaceFile(this.#path(key), `${JSON.stringify({ buildId })}\n`);
  }

  /**
   * The file may have been replaced before the failure: then the next start would read a
   * reference that was not made.
   */
  async #putBack(key: string, before: Reference | undefined): Promise<void> {
    const text = await readFile(this.#path(key), 'utf8').catch(() => undefined);
    const is = text === undefined ? undefined : (JSON.parse(text) as { buildId: string }).buildId;
    if (is === before?.buildId) return;
    if (before === undefined) await rm(this.#path(key), { force: true });
    else await this.#write(key, before.buildId);
  }

  #path(key: string): string {
    return join(this.#directory, `${key}.json`);
  }

  #change(key: string, action: () => Promise<void>): Promise<void> {
    const change = (this.#changes.get(key) ?? Promise.resolve()).then(action);
    const settled = change.catch(() => undefined);
    this.#changes.set(key, settled);
    void settled.then(() => {
      if (this.#changes.get(key) === settled) this.#changes.delete(key);
    });
    return change;
  }
}

function keyOf(kind: ReferenceKind, name: string): string {
  return `${kind}~${name}`;
}

function parseReference(file: string, text: string, path: string): Reference {
  const match = FILE_PATTERN.exec(file);
  if (match === null) throw new BuildFormatError(path, 'not the name of a reference');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new BuildFormatError(path, 'torn, or not a reference');
  }
  const result = contents.safeParse(value);
  if (!result.success) throw new BuildFormatError(path, 'not a reference');
  const [, kind, name] = match as unknown as [string, ReferenceKind, string];
  return { kind, name, buildId: result.data.buildId };
}
