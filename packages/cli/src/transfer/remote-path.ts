import { posix } from 'node:path';
import { TorporError } from '@torpor/protocol';
import type { Sandbox } from '@torpor/sdk';

export type RemoteKind = 'directory' | 'file' | 'absent';

export interface RemotePath {
  readonly kind: RemoteKind;
  /** Of a file. */
  readonly size?: number;
}

/** What a path in a sandbox is, as the entry that its directory lists, links followed by the listing. */
export async function inspectRemote(sandbox: Sandbox, path: string): Promise<RemotePath> {
  if (await isRemoteDirectory(sandbox, path)) return { kind: 'directory' };
  const name = posix.basename(path);
  try {
    const entries = await sandbox.files.list(posix.dirname(path));
    const entry = entries.find((candidate) => candidate.name === name);
    if (entry === undefined) return { kind: 'absent' };
    return entry.type === 'symlink' ? { kind: 'file' } : { kind: 'file', size: entry.size };
  } catch (reason) {
    const error = TorporError.from(reason);
    if (error.code === 'not_found' || error.code === 'invalid_request') return { kind: 'absent' };
    throw error;
  }
}

async function isRemoteDirectory(sandbox: Sandbox, path: string): Promise<boolean> {
  try {
    await sandbox.files.list(path);
    return true;
  } catch (reason) {
    const error = TorporError.from(reason);
    // Either it is not there, or it is no directory.
    if (error.code === 'not_found' || error.code === 'invalid_request') return false;
    throw error;
  }
}
