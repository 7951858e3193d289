import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { getCompileCacheDir } from 'node:module';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PagerHello } from '../control/protocol.ts';
import { PagerClient } from './pager-client.ts';

export interface PagerLaunch {
  readonly socketPath: string;
  /** The file that the pager logs to. */
  readonly logPath: string;
  readonly threads?: number;
}

export interface PagerConnection {
  readonly client: PagerClient;
  readonly hello: PagerHello;
  /** False if the pager ran already. */
  readonly started: boolean;
}

/**
 * Connects to the pager, starting it if none runs. It is detached: it outlives
 * this process, and a later one connects to it again.
 */
export async function connectPager(launch: PagerLaunch): Promise<PagerConnection> {
  try {
    return { ...(await PagerClient.connect(launch.socketPath)), started: false };
  } catch (error) {
    if (!isNotListening(error)) throw error;
  }
  await startPager(launch);
  return { ...(await PagerClient.connect(launch.socketPath)), started: true };
}

async function startPager({ socketPath, logPath, threads }: PagerLaunch): Promise<void> {
  const main = fileURLToPath(new URL('../main.ts', import.meta.url));
  const args = [main, '--socket', socketPath];
  if (threads !== undefined) args.push('--threads', String(threads));
  const log = openSync(logPath, 'a', 0o600);
  // Its threads load what we have compiled already instead of compiling it again.
  const cache = getCompileCacheDir();
  const child = spawn(process.execPath, args, {
    detached: true,
    stdio: ['ignore', 'pipe', log],
    env: { ...process.env, ...(cache === undefined ? {} : { NODE_COMPILE_CACHE: dirname(cache) }) },
  });
  const { stdout } = child;
  if (stdout === null) throw new Error('The page server was started without a standard output.');
  closeSync(log);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.once('error', reject);
  child.once('exit', (code) => {
    reject(
      new Error(`The page server exited during its start, with status ${code}; see ${logPath}.`),
    );
  });
  stdout.once('data', () => resolve());
  try {
    await promise;
  } finally {
    child.removeAllListeners();
    stdout.destroy();
    child.unref();
  }
}

/** Whether connecting to a pager failed because none listens on the socket. */
export function isNotListening(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    (error.code === 'ENOENT' || error.code === 'ECONNREFUSED')
  );
}
