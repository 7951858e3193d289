export type ArtifactKind = 'kernel' | 'initramfs' | 'agent drive' | 'base image';

/** A line for people who wait: what is being made, and how far it is. */
export interface Progress {
  readonly artifact: ArtifactKind;
  readonly message: string;
}

export type OnProgress = (progress: Progress) => void;
