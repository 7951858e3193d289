import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ignoreMissing, writeFileAtomically } from '@torpor/linux';
import { GUEST, TorporError } from '@torpor/protocol';
import { z } from 'zod';
import {
  computeKey,
  ensureArtifact,
  isKey,
  listArtifacts,
  removeArtifact,
} from '../cache/artifact-cache.ts';
import { type PrunedArtifact, removeArtifacts } from '../cache/prune.ts';
import type { OnProgress } from '../progress.ts';
import { baseImageInputs, buildDebianBase } from './debian-base.ts';

// An image has a name and, over time, several versions, each a directory named after its key:
// images/<name>/<key>/{rootfs.ext4,manifest.json}. The file images/<name>/current.json has the
// key of the current one. So a new version does not affect the one that sandboxes run from,
// which is removed when nothing uses it.

const FORMAT = 1;
const POINTER = 'current.json';
/** The image that this package can build. */
export const BASE_IMAGE = 'base';

const pointerSchema = z.strictObject({ format: z.literal(FORMAT), key: z.string().refine(isKey) });
const manifestSchema = z.strictObject({
  format: z.literal(FORMAT),
  name: z.string(),
  key: z.string(),
  createdAt: z.iso.datetime(),
  defaultUser: z.string().optional(),
});

export interface Image {
  readonly name: string;
  /** Identifies this version of the image permanently. */
  readonly key: string;
  /** Read-only ext4. */
  readonly path: string;
  readonly sizeBytes: number;
  /** RFC 3339. */
  readonly createdAt: string;
  /** The user that commands run as if the sandbox names none. */
  readonly defaultUser?: string;
}

export interface ImageStoreOptions {
  readonly cacheDir: string;
  /** Whether an image is still needed; none is if omitted. */
  readonly isInUse?: (image: Image) => boolean | Promise<boolean>;
}

export interface ImageBuildOptions {
  readonly onProgress?: OnProgress;
  /** Aborts the build; nothing is left of it. */
  readonly signal?: AbortSignal;
  /** Builds from the current packages even if this recipe was built already. */
  readonly refresh?: boolean;
}

/** The base images of this machine. Safe to use from several processes at once. */
export class ImageStore {
  readonly #directory: string;
  readonly #isInUse: (image: Image) => boolean | Promise<boolean>;

  constructor(options: ImageStoreOptions) {
    this.#directory = join(options.cacheDir, 'images');
    this.#isInUse = options.isInUse ?? (() => false);
  }

  /** Every image that can be used, by name. */
  async list(): Promise<Image[]> {
    const images: Image[] = [];
    for (const name of await this.#names()) {
      const image = await this.resolve(name);
      if (image !== undefined) images.push(image);
    }
    return images;
  }

  /** The current version of an image; undefined if there is none. */
  async resolve(name: string): Promise<Image | undefined> {
    if (!isImageName(name)) return undefined;
    const text = await readFile(join(this.#directory, name, POINTER), 'utf8').catch(ignoreMissing);
    if (text === undefined) return undefined;
    return this.#read(name, parse(pointerSchema, text, `${name}/${POINTER}`).key);
  }

  /**
   * Builds an image and makes it the current version of its name; returns at once if this
   * recipe was built already. Throws `not_found` for a name without a recipe, `disk_full`,
   * `host_setup`, or the signal's reason.
   */
  async build(name: string, options: ImageBuildOptions = {}): Promise<Image> {
    if (name !== BASE_IMAGE) {
      throw new TorporError(
        'not_found',
        `There is no recipe for an image named ${JSON.stringify(name)}; the built-in one is "${BASE_IMAGE}".`,
      );
    }
    const { signal, onProgress } = options;
    const report = (message: string) => onProgress?.({ artifact: 'base image', message });
    const inputs = await baseImageInputs();
    const createdAt = new Date().toISOString();
    const key = computeKey(options.refresh === true ? { ...inputs, createdAt } : inputs);
    const directory = join(this.#directory, name);
    await ensureArtifact({
      directory,
      key,
      build: async (staging) => {
        await buildDebianBase({ staging, seed: key, report, signal });
        const manifest: z.infer<typeof manifestSchema> = {
          format: FORMAT,
          name,
          key,
          createdAt,
          defaultUser: GUEST.defaultUser,
        };
        await writeFile(join(staging, 'manifest.json'), JSON.stringify(manifest, undefined, 2));
      },
      signal,
      onWait: () => report('waiting for another process that builds it'),
    });
    await writeFileAtomically(
      join(directory, POINTER),
      JSON.stringify({ format: FORMAT, key }),
      0o644,
    );
    const image = await this.#read(name, key);
    if (image === undefined)
      throw new TorporError('internal_error', `The image ${name} no longer exists.`);
    return image;
  }

  /**
   * Removes an image with all its versions. Throws `not_found`, or `conflict` if
   * something uses any of them; nothing is removed then.
   */
  async remove(name: string): Promise<void> {
    const versions = await this.#versions(name);
    if (versions.length === 0) {
      throw new TorporError('not_found', `There is no image named ${JSON.stringify(name)}.`, {
        remedy: '`torpor image ls` lists the images.',
      });
    }
    for (const version of versions) {
      if (await this.#isInUse(version)) {
        throw new TorporError('conflict', `The image ${name} is in use.`, {
          remedy: 'First destroy the sandboxes and delete the snapshots that use it.',
        });
      }
    }
    const directory = join(this.#directory, name);
    await rm(join(directory, POINTER), { force: true });
    for (const { key } of versions) await removeArtifact(directory, key);
  }

  /**
   * Removes versions that are neither current nor used, and returns them; with `dryRun`, it
   * only returns them.
   */
  async prune(options: { readonly dryRun?: boolean } = {}): Promise<PrunedArtifact[]> {
    const pruned: PrunedArtifact[] = [];
    for (const name of await this.#names()) {
      const current = await this.resolve(name);
      const keys: string[] = [];
      for (const version of await this.#versions(name)) {
        if (version.key !== current?.key && !(await this.#isInUse(version))) keys.push(version.key);
      }
      pruned.push(...(await removeArtifacts(join(this.#directory, name), keys, options)));
    }
    return pruned;
  }

  async #names(): Promise<string[]> {
    const names = (await readdir(this.#directory).catch(ignoreMissing)) ?? [];
    return names.filter(isImageName).sort();
  }

  async #versions(name: string): Promise<Image[]> {
    if (!isImageName(name)) return [];
    const keys = await listArtifacts(join(this.#directory, name));
    const images = await Promise.all(keys.map((key) => this.#read(name, key)));
    return images.filter((image) => image !== undefined);
  }

  async #read(name: string, key: string): Promise<Image | undefined> {
    const directory = join(this.#directory, name, key);
    const text = await readFile(join(directory, 'manifest.json'), 'utf8').catch(ignoreMissing);
    if (text === undefined) return undefined;
    const manifest = parse(manifestSchema, text, `${name}/${key}/manifest.json`);
    const path = join(directory, 'rootfs.ext4');
    return {
      name,
      key,
      path,
      sizeBytes: (await stat(path)).size,
      createdAt: manifest.createdAt,
      ...(manifest.defaultUser === undefined ? {} : { defaultUser: manifest.defaultUser }),
    };
  }
}

function isImageName(name: string): boolean {
  return /^[a-z0-9][a-z0-9._-]{0,62}$/.test(name);
}

function parse<T>(schema: z.ZodType<T>, text: string, what: string): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    throw new TorporError('internal_error', `The file images/${what} is damaged.`, {
      cause,
      remedy: 'Remove the image and build it again.',
    });
  }
}
