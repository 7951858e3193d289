import { rm } from 'node:fs/promises';
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type HandlerContext,
  type ServiceImpl,
} from '@connectrpc/connect';
import { envdFilesystem } from '@torpor/protocol';
import type { EnvdContext } from '../context.ts';
import type { User } from '../users.ts';
import { ensureDirectories } from './directories.ts';
import { entryInfo } from './entry-info.ts';
import { filesystemError, isMissing } from './errors.ts';
import { listDirectory } from './list-directory.ts';
import { moveEntry } from './move.ts';
import { WatchService } from './watches.ts';

/** Adds {@link filesystemService} to a router. */
export function registerFilesystem(router: ConnectRouter, context: EnvdContext): void {
  router.service(envdFilesystem.Filesystem, filesystemService(context));
}

/**
 * Implements `filesystem.Filesystem`, wire-compatible with E2B. As there, the daemon does the
 * work with its own permissions, those of root; the requesting user determines the base of
 * relative paths and the owner of new files.
 */
function filesystemService(context: EnvdContext): ServiceImpl<typeof envdFilesystem.Filesystem> {
  const watches = new WatchService(context);
  const userOf = (call: HandlerContext): User => context.userOfCall(call.requestHeader);

  return {
    async stat(request, call) {
      return { entry: await describe(context, context.resolvePath(request.path, userOf(call))) };
    },

    async makeDir(request, call) {
      const user = userOf(call);
      const path = context.resolvePath(request.path, user);
      await makeDirectory(path, user);
      return { entry: await describe(context, path) };
    },

    async move(request, call) {
      const user = userOf(call);
      const destination = context.resolvePath(request.destination, user);
      await moveEntry(context.resolvePath(request.source, user), destination, user);
      return { entry: await describe(context, destination) };
    },

    async listDir(request, call) {
      const path = context.resolvePath(request.path, userOf(call));
      return { entries: await listDirectory(path, request.depth || 1, context.users) };
    },

    async remove(request, call) {
      await removeTree(context.resolvePath(request.path, userOf(call)));
      return {};
    },

    watchDir: (request, call) => watches.watchDir(request, call),
    createWatcher: (request, call) => watches.createWatcher(request, call),
    getWatcherEvents: (request) => watches.getWatcherEvents(request),
    removeWatcher: (request) => watches.removeWatcher(request),
  };
}

async function describe(context: EnvdContext, path: string) {
  try {
    return await entryInfo(path, context.users);
  } catch (error) {
    throw filesystemError(isMissing(error) ? 'file not found' : `cannot read ${path}`, error);
  }
}

async function makeDirectory(path: string, user: User): Promise<void> {
  try {
    const made = await ensureDirectories(path, user);
    if (made.at(-1) === path) return;
  } catch (error) {
    throw filesystemError(`cannot create the directory ${path}`, error);
  }
  throw new ConnectError(`directory already exists: ${path}`, Code.AlreadyExists);
}

/** Removes a file, or a directory with all its contents; succeeds if it does not exist. */
async function removeTree(path: string): Promise<void> {
  if (path === '/') {
    throw new ConnectError('the root directory cannot be removed', Code.InvalidArgument);
  }
  try {
    await rm(path, { recursive: true, force: true });
  } catch (error) {
    if (!isMissing(error)) throw filesystemError(`cannot remove ${path}`, error);
  }
}
