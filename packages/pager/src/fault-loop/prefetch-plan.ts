import { MAX_COPY_BLOCKS } from './guest-memory.ts';

/** A part of RAM that is to be installed before the guest touches it; blocks. */
export interface Piece {
  readonly first: number;
  readonly count: number;
}

/** The recorded windows in the order of their addresses, joined to pieces of at most 1 MiB. */
export function planPrefetch(workingSet: Uint32Array): Piece[] {
  const windows: Piece[] = [];
  for (let at = 0; at + 1 < workingSet.length; at += 2) {
    windows.push({ first: workingSet[at] as number, count: workingSet[at + 1] as number });
  }
  windows.sort((a, b) => a.first - b.first);
  const pieces: Piece[] = [];
  for (const window of windows) {
    const last = pieces.at(-1);
    const joined = last === undefined ? 0 : window.first + window.count - last.first;
    if (
      last !== undefined &&
      window.first <= last.first + last.count &&
      joined <= MAX_COPY_BLOCKS
    ) {
      pieces[pieces.length - 1] = { first: last.first, count: Math.max(last.count, joined) };
    } else pieces.push(window);
  }
  return pieces;
}

/** All of RAM, in pieces of at most 1 MiB. */
export function planAll(blockCount: number): Piece[] {
  const pieces: Piece[] = [];
  for (let first = 0; first < blockCount; first += MAX_COPY_BLOCKS) {
    pieces.push({ first, count: Math.min(MAX_COPY_BLOCKS, blockCount - first) });
  }
  return pieces;
}
