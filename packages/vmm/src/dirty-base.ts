/*
 * Dirty tracking: what the RAM of a machine is compared with when it is captured.
 *
 * A build stores only the blocks of RAM that changed since its parent, so each capture needs
 * a base: a known state of all RAM, and a way to know what was written since. The base of a
 * running machine is one value, which is kept with the machine in the sandbox's record, and
 * changes at four points only:
 *
 *     boot                          zeros
 *     restore from build B          build B, number 0
 *     commit as B by capture n      build B, number n
 *     crash after B was published
 *       and before the record was   unknown, like B
 *
 * The number is the driver's: it counts the attempts to capture a machine, and 0 is what the
 * machine was started from. It matters to a VMM that writes RAM out (Firecracker): it writes a
 * diff of what changed since its last snapshot, and resets its tracking at the same time. If a
 * snapshot was written and then lost (a full disk, a commit that failed, an agent that was
 * killed), the next diff would silently lack what the lost one had. So the driver counts the
 * attempts on disk before each one, and writes a diff only if the base has the number of the
 * last attempt. In every other case (the count is lost or damaged, for one) it writes all of
 * RAM, which takes longer and is never wrong. That is why a commit that fails leaves the base
 * as it was: the driver has counted the attempt.
 *
 * A VMM whose RAM is a file (QEMU) resets nothing: the file can be read at any time. Where a
 * page server fills it, pages that were never touched are holes in it, unchanged since every
 * build of the machine; all its captures have the number 0.
 *
 * Either way, blocks that are written out and equal those of the base's build are not stored
 * again, so a full capture costs time, not disk.
 */

/** What the RAM of a machine is compared with. */
export type DirtyBase =
  /** RAM was all zeros at capture number 0, when the machine was booted. */
  | { readonly kind: 'zeros' }
  /** RAM was that of the build at this capture. */
  | { readonly kind: 'build'; readonly buildId: string; readonly number: number }
  /** What was written since any capture is unknown. RAM is still similar to the build's. */
  | { readonly kind: 'unknown'; readonly buildId?: string | undefined };

/** The base of a machine that was booted. */
export const BOOTED: DirtyBase = { kind: 'zeros' };

/** The base of a machine that was restored from a build. */
export function restoredFrom(buildId: string): DirtyBase {
  return { kind: 'build', buildId, number: 0 };
}

/** The base of a machine once one of its captures is a published build. */
export function committedAs(buildId: string, { number }: { readonly number: number }): DirtyBase {
  return { kind: 'build', buildId, number };
}

/** The base of a machine whose latest build was published by a process that was killed before it recorded the capture. */
export function committedUnrecorded(buildId: string): DirtyBase {
  return { kind: 'unknown', buildId };
}

/** The build that RAM is compared with; undefined if it is compared with zeros. */
export function buildOf(base: DirtyBase): string | undefined {
  return base.kind === 'zeros' ? undefined : base.buildId;
}

/** The capture since which the VMM must have tracked all changes; undefined if there is none. */
export function captureOf(base: DirtyBase): number | undefined {
  switch (base.kind) {
    case 'zeros':
      return 0;
    case 'build':
      return base.number;
    case 'unknown':
      return undefined;
  }
}
