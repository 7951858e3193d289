import { rm } from 'node:fs/promises';
import { BLOCK_SIZE, BUILD_FILES, type CaptureSource, type StagedBuild } from '@torpor/builds';
import { TorporError } from '@torpor/protocol';
import type { MicroVm, SnapshotRequest } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import type { CommitRequest } from './commit.ts';

/*
 * Where the RAM of a machine comes from when it is committed.
 *
 * QEMU keeps it in a file on tmpfs. Where the pager filled that file, what is missing in
 * it is as in the parent; else it is all there, and a hole is zeros.
 *
 * Firecracker writes it out, all of it or what changed since an earlier snapshot. A diff
 * is of use only if the parent *is* that snapshot, so the number of the snapshot that the
 * parent was made of is remembered with the parent. The driver refuses a diff as soon as
 * there was a later attempt, whoever made it and whatever became of it: a commit that
 * failed after the snapshot, an agent that was killed before it could remember. Then all
 * of the RAM is written and compared with the parent, which takes longer and is as right.
 */

/** Guest RAM at the moment when its machine's state was saved. */
export interface MemoryImage extends AsyncDisposable {
  readonly path: string;
  readonly blockCount: number;
  /** What a hole of the file says; without a parent the guest's RAM began as zeros. */
  readonly holes: CaptureSource['holes'];
  /** Which snapshot of the machine this is; undefined where RAM is a file. */
  readonly snapshot: number | undefined;
}

/** Writes the state of a stopped machine into a build in the making, and its RAM to where that can be read. */
export async function saveMachine(
  host: Pick<HostContext, 'logger'>,
  request: CommitRequest,
  staged: StagedBuild,
): Promise<MemoryImage> {
  const { vm, lazy, timer } = request;
  const { memoryMiB, memoryFile } = vm.description.spec;
  const blockCount = (memoryMiB * 2 ** 20) / BLOCK_SIZE;
  const take = vm.snapshot?.bind(vm);
  if (take === undefined) {
    await timer.measure('state', () => vm.saveState(staged.path(BUILD_FILES.state)));
    return {
      path: memoryFile,
      blockCount,
      holes: lazy ? 'unchanged' : 'zero',
      snapshot: undefined,
      [Symbol.asyncDispose]: async () => undefined,
    };
  }
  const path = staged.scratchPath;
  const { number, isDiff } = await timer.measure('snapshot', () =>
    takeSnapshot(host, take, request, {
      statePath: staged.path(BUILD_FILES.state),
      memoryPath: path,
    }),
  );
  return {
    path,
    blockCount,
    holes: isDiff && request.parentId !== undefined ? 'unchanged' : 'zero',
    snapshot: number,
    [Symbol.asyncDispose]: () => rm(path, { force: true }),
  };
}

interface TakenSnapshot {
  readonly number: number;
  readonly isDiff: boolean;
}

/** A diff to the parent if that can be had, else all of the RAM. */
async function takeSnapshot(
  host: Pick<HostContext, 'logger'>,
  take: NonNullable<MicroVm['snapshot']>,
  { vm, parentId, parentSnapshot }: CommitRequest,
  paths: Pick<SnapshotRequest, 'statePath' | 'memoryPath'>,
): Promise<TakenSnapshot> {
  // Without a parent, only what was written since the machine was booted is all that there is.
  if (parentSnapshot !== undefined && (parentId !== undefined || parentSnapshot === 0)) {
    try {
      const { number } = await take({ kind: 'diff', since: parentSnapshot, ...paths });
      return { number, isDiff: true };
    } catch (error) {
      if (!(error instanceof TorporError) || error.code !== 'invalid_state') throw error;
      const { id } = vm.description.spec;
      host.logger.info({ machine: id, why: error.message }, 'no diff to be had');
    }
  }
  const { number } = await take({ kind: 'full', ...paths });
  return { number, isDiff: false };
}
