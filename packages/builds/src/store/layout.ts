import { join } from 'node:path';
import type { BuildFileName } from '../manifest/manifest.ts';

/** The directory of builds in a local store. */
export const BUILDS_DIRECTORY = 'builds';
const STAGING = '.staging-';
const TRASH = '.trash-';

/**
 * The paths of a local store: a directory for each build, and others for builds that are being
 * made or removed.
 */
export class StoreLayout {
  readonly root: string;

  constructor(root: string) {
    this.root = root;
  }

  directory(id: string): string {
    return join(this.root, id);
  }

  file(id: string, name: BuildFileName): string {
    return join(this.root, id, name);
  }

  staging(id: string): string {
    return join(this.root, `${STAGING}${id}`);
  }

  trash(id: string): string {
    return join(this.root, `${TRASH}${id}`);
  }

  /** Whether a directory of the root is one that a crash left half-made or half-removed. */
  isLeftover(name: string): boolean {
    return name.startsWith(STAGING) || name.startsWith(TRASH);
  }
}
