export type ArtifactKind = 'kernel' | 'initramfs' | 'agent drive' | 'base image';

/** A line of progress for the user: what is being built, and how far it is. */
export interface Progress {
  readonly artifact: ArtifactKind;
  readonly message: string;
}

export type OnProgress = (progress: Progress) => void;
