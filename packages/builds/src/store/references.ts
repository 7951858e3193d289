import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { BuildFormatError } from '../errors.ts';
import { isUuid } from '../uuid.ts';
import { replaceFile, syncPath } from './durable.ts';

/** Who keeps a build: a sandbox that is paused in it or runs from it, or a name that users gave. */
export type ReferenceKind = 'sandbox' | 'template';

export interface Reference {
  readonly kind: ReferenceKind;
  /** `[A-Za-z0-9._-]{1,128}`, unique within its kind. */
  readonly name: string;
  readonly buildId: string;
}

const FILE_PATTERN = /^(sandbox|template)~([A-Za-z0-9._-]{1,128})\.json$/;
const contents = z.strictObject({ buildId: z.string().refine(isUuid, 'no build id') });

/** Names that point at builds, one small file each. What no reference reaches may be collected. */
export class References {
  readonly #directory: string;
  readonly #byKey: Map<string, Reference>;

  private constructor(directory: string, byKey: Map<string, Reference>) {
    this.#directory = directory;
    this.#byKey = byKey;
  }

  /** Reads all references. Throws BuildFormatError for a file that is not one. */
  static async open(directory: string): Promise<References> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const byKey = new Map<string, Reference>();
    for (const file of await readdir(directory)) {
      const path = join(directory, file);
      if (file.endsWith('.new')) {
        await rm(path, { force: true });
        continue;
      }
      const reference = parseReference(file, await readFile(path, 'utf8'), path);
      byKey.set(keyOf(reference.kind, reference.name), reference);
    }
    return new References(directory, byKey);
  }

  all(): readonly Reference[] {
    return [...this.#byKey.values()];
  }

  get(kind: ReferenceKind, name: string): string | undefined {
    return this.#byKey.get(keyOf(kind, name))?.buildId;
  }

  /** Points a name at a build, instead of whatever it pointed at; durable when it resolves. */
  async set(kind: ReferenceKind, name: string, buildId: string): Promise<void> {
    const key = keyOf(kind, name);
    if (!FILE_PATTERN.test(`${key}.json`)) throw new RangeError(`${name} cannot name a build.`);
    // In memory first: a collection that runs meanwhile must not miss it.
    const before = this.#byKey.get(key);
    this.#byKey.set(key, { kind, name, buildId });
    try {
      await replaceFile(join(this.#directory, `${key}.json`), `${JSON.stringify({ buildId })}\n`);
    } catch (error) {
      if (before === undefined) this.#byKey.delete(key);
      else this.#byKey.set(key, before);
      throw error;
    }
  }

  /** Idempotent. */
  async delete(kind: ReferenceKind, name: string): Promise<void> {
    const key = keyOf(kind, name);
    await rm(join(this.#directory, `${key}.json`), { force: true });
    await syncPath(this.#directory);
    this.#byKey.delete(key);
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
