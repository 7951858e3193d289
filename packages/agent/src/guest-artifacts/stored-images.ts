import type { ImageStore } from '@torpor/images';
import { TorporError } from '@torpor/protocol';
import type { BaseImage, BaseImages, ImageSummary } from '../host-context.ts';

/** The images in the cache directory. */
export class StoredImages implements BaseImages {
  readonly #store: Pick<ImageStore, 'resolve' | 'list'>;

  constructor(store: Pick<ImageStore, 'resolve' | 'list'>) {
    this.#store = store;
  }

  async resolve(name: string): Promise<BaseImage> {
    const image = await this.#store.resolve(name);
    if (image === undefined) {
      throw new TorporError(
        'not_found',
        `There is no image ${JSON.stringify(name)} on this host.`,
        {
          remedy: '`torpor image ls` lists the images.',
        },
      );
    }
    return image;
  }

  async list(): Promise<ImageSummary[]> {
    const images = await this.#store.list();
    return images.map(({ name, sizeBytes, createdAt }) => ({
      name,
      sizeBytes,
      createdAt: Date.parse(createdAt),
    }));
  }
}
