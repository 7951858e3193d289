import { join } from 'node:path';
import type { BuildFileName } from '../manifest/manifest.ts';

/** Where a local store's directory has its builds. */
export const BUILDS_DIRECTORY = 'builds';
const STAGING = '.staging-';
const TRASH = '.trash-';

/** Where a local store keeps its builds: a directory each, and others for those that are made or removed. */
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
