import type { Dirent, Stats } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import { fileSystemType, IN, Inotify, type InotifyEvent } from '@torpor/linux';
import { envdFilesystem, TorporError } from '@torpor/protocol';
import { errnoName, filesystemError, isMissing } from './errors.ts';

/*
 * A watch of one directory, or of a tree, by inotify. inotify watches single directories, so a
 * tree needs a watch on each of its directories, with three difficulties:
 *
 * - A new directory is watched at once, but entries created in it before would be missed. It is
 *   therefore listed after the watch was added, and its entries are reported as created. An entry
 *   created between the two is seen twice; the second event is dropped. It is recognised because
 *   it is in the kernel's queue when the listing finishes: everything queued until then is read,
 *   and a marker after it stops the dropping.
 * - A renamed directory keeps its watch (which belongs to the inode), so the tree of names is
 *   updated. Both halves of a rename have the same cookie; if the second half is missing, the
 *   directory has left the tree, and is no longer watched.
 * - Events can be lost, in the kernel's queue or in ours, which are both bounded. Then the watch
 *   fails with `data_loss`, after all events that were not lost, and the client must list the
 *   directory again.
 *
 * Events are read as soon as the event loop polls, and handled one after the other.
 */

const { CREATE, WRITE, REMOVE, RENAME, CHMOD } = envdFilesystem.EventType;

const MASK =
  IN.CREATE |
  IN.DELETE |
  IN.MODIFY |
  IN.ATTRIB |
  IN.MOVED_FROM |
  IN.MOVED_TO |
  IN.DELETE_SELF |
  IN.MOVE_SELF |
  IN.ONLYDIR;

/** Twice the kernel's own default queue (fs.inotify.max_queued_events). */
const MAX_PENDING = 32_768;

/** The kernel's name of a file that was opened with O_TMPFILE, and is in no directory. */
const NAMELESS = /^(#\d+|\/)$/;

/** How long the second half of a rename may take to follow the first. */
const RENAME_GRACE_MS = 100;

export interface WatchOptions {
  readonly recursive: boolean;
  /** Watch directories on NFS, SMB, FUSE and the like, where changes by other hosts are missed. */
  readonly allowNetworkMounts: boolean;
}

export interface WatchHandlers {
  /** `name` is relative to the watched directory, which itself is `.`. Awaited before the next. */
  event(name: string, type: envdFilesystem.EventType): void | Promise<void>;
  /** Called once, as the last call: without an error when the watched directory no longer exists. */
  end(error?: ConnectError): void;
}

/** One watched directory. Its name is its path in the tree. */
interface Node {
  watch: number;
  name: string;
  parent: Node | undefined;
  readonly children: Map<string, Node>;
  /** Names reported by the listing whose CREATE may still be in the queue. */
  listed: Set<string> | undefined;
}

type Pending = InotifyEvent | (() => void);

export class DirectoryWatcher implements Disposable {
  readonly #path: string;
  readonly #options: WatchOptions;
  readonly #handlers: WatchHandlers;
  readonly #inotify: Inotify;
  readonly #nodes = new Map<number, Node>();
  /** Directories of which only the first half of a rename was seen, by cookie. */
  readonly #leaving = new Map<number, Node>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #root: Node | undefined;
  #pending: Pending[] = [];
  #overflowed = false;
  #working = true;
  #open = true;

  /**
   * Watches a directory from now on; events while the tree is being walked are reported too.
   * Throws the ConnectError of `sandbox_exhausted` if the kernel's limits of watches or
   * instances are reached, `not_found`, …
   */
  static async start(
    path: string,
    options: WatchOptions,
    handlers: WatchHandlers,
  ): Promise<DirectoryWatcher> {
    const watcher = new DirectoryWatcher(path, options, handlers);
    try {
      await watcher.#attachRoot();
    } catch (error) {
      watcher[Symbol.dispose]();
      throw watchError(path, error);
    }
    void watcher.#work();
    return watcher;
  }

  private constructor(path: string, options: WatchOptions, handlers: WatchHandlers) {
    this.#path = path;
    this.#options = options;
    this.#handlers = handlers;
    try {
      this.#inotify = new Inotify((events) => this.#receive(events));
    } catch (error) {
      throw watchError(path, error);
    }
  }

  [Symbol.dispose](): void {
    this.#open = false;
    this.#pending = [];
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#inotify[Symbol.dispose]();
  }

  async #attachRoot(): Promise<void> {
    const watch = this.#inotify.add(this.#path, MASK);
    this.#root = { watch, name: '', parent: undefined, children: new Map(), listed: undefined };
    this.#nodes.set(watch, this.#root);
    if (this.#options.recursive) await this.#attachChildren(this.#root);
    this.#working = false;
  }

  #receive(events: readonly InotifyEvent[]): void {
    if (!this.#open || this.#overflowed) return;
    for (const event of events) {
      if (event.mask & IN.Q_OVERFLOW || this.#pending.length >= MAX_PENDING) {
        this.#overflowed = true;
        this.#pending.push(() => this.#end(new ConnectError(LOST, Code.DataLoss)));
        break;
      }
      this.#pending.push(event);
    }
    void this.#work();
  }

  /** Handles pending events; at most one call runs at a time. */
  async #work(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    try {
      while (this.#pending.length > 0) {
        const batch = this.#pending;
        this.#pending = [];
        for (const pending of batch) {
          if (!this.#open) return;
          if (typeof pending === 'function') pending();
          else await this.#handle(pending);
        }
      }
    } catch (error) {
      this.#end(watchError(this.#path, error));
    } finally {
      this.#working = false;
    }
  }

  #end(error?: ConnectError): void {
    if (!this.#open) return;
    this[Symbol.dispose]();
    this.#handlers.end(error);
  }

  async #handle(event: InotifyEvent): Promise<void> {
    const node = this.#nodes.get(event.watch);
    if (node === undefined) return;
    if (event.name === '') return this.#handleSelf(node, event.mask);
    const { name, mask } = event;
    const isDirectory = (mask & IN.ISDIR) !== 0;
    if (mask & (IN.CREATE | IN.MOVED_TO)) {
      if (!node.listed?.delete(name)) await this.#report(node, name, CREATE);
      if (isDirectory && this.#options.recursive) await this.#adopt(node, event);
    } else if (mask & (IN.MODIFY | IN.ATTRIB)) {
      if (NAMELESS.test(name) && (await this.#isMissing(node, name))) return;
      await this.#report(node, name, mask & IN.MODIFY ? WRITE : CHMOD);
    } else if (mask & IN.DELETE) {
      node.listed?.delete(name);
      await this.#report(node, name, REMOVE);
    } else if (mask & IN.MOVED_FROM) {
      node.listed?.delete(name);
      await this.#report(node, name, RENAME);
      const child = node.children.get(name);
      if (child !== undefined) this.#leave(child, event.cookie);
    }
  }

  /** Events of a directory below the root are reported by its parent. */
  async #handleSelf(node: Node, mask: number): Promise<void> {
    if (mask & IN.IGNORED) return this.#forget(node);
    if (node !== this.#root) return;
    if (mask & IN.ATTRIB) {
      await this.#handlers.event('.', CHMOD);
    } else if (mask & (IN.DELETE_SELF | IN.UNMOUNT)) {
      await this.#handlers.event('.', REMOVE);
      this.#end();
    } else if (mask & IN.MOVE_SELF) {
      await this.#handlers.event('.', RENAME);
      this.#end();
    }
  }

  async #report(node: Node, name: string, type: envdFilesystem.EventType): Promise<void> {
    await this.#handlers.event(relativePath(node, name), type);
  }

  /** A directory has appeared: by a rename inside the tree, or as a new one. */
  async #adopt(parent: Node, event: InotifyEvent): Promise<void> {
    const renamed = event.cookie === 0 ? undefined : this.#leaving.get(event.cookie);
    if (renamed !== undefined) {
      this.#leaving.delete(event.cookie);
      this.#place(renamed, parent, event.name);
      return;
    }
    const known = parent.children.get(event.name);
    const node = await this.#attach(parent, event.name);
    if (node !== undefined && node !== known)
      await this.#reportContents(node, event.mask & IN.CREATE ? 'made' : 'moved in');
  }

  /**
   * Watches and reports the contents of a new directory. A file of a directory that was created
   * here was written here too; one that was moved in was not.
   */
  async #reportContents(directory: Node, origin: 'made' | 'moved in'): Promise<void> {
    const unfinished = [directory];
    const listed: Node[] = [];
    for (let node = unfinished.pop(); node !== undefined; node = unfinished.pop()) {
      const names = new Set<string>();
      for (const child of await this.#childrenOf(node)) {
        if (!this.#open) return;
        names.add(child.name);
        await this.#report(node, child.name, CREATE);
        if (child.isDirectory()) {
          const below = await this.#attach(node, child.name);
          if (below !== undefined) unfinished.push(below);
        } else if (origin === 'made' && (await this.#hasContent(node, child.name))) {
          await this.#report(node, child.name, WRITE);
        }
      }
      node.listed = names;
      listed.push(node);
    }
    this.#inotify.drain();
    this.#pending.push(() => {
      for (const node of listed) node.listed = undefined;
    });
  }

  async #hasContent(node: Node, name: string): Promise<boolean> {
    const stats = await this.#statOf(node, name);
    return stats?.isFile() === true && stats.size > 0;
  }

  async #isMissing(node: Node, name: string): Promise<boolean> {
    return (await this.#statOf(node, name)) === undefined;
  }

  async #statOf(node: Node, name: string): Promise<Stats | undefined> {
    try {
      return await lstat(join(this.#path, relativePath(node, name)));
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  /** Watches everything below a directory, without reporting it. */
  async #attachChildren(directory: Node): Promise<void> {
    const unfinished = [directory];
    for (let node = unfinished.pop(); node !== undefined; node = unfinished.pop()) {
      for (const child of await this.#childrenOf(node)) {
        if (!child.isDirectory()) continue;
        const below = await this.#attach(node, child.name);
        if (below !== undefined) unfinished.push(below);
        if (!this.#open) return;
      }
    }
  }

  async #childrenOf(node: Node): Promise<Dirent[]> {
    try {
      return await readdir(join(this.#path, relativePath(node)), { withFileTypes: true });
    } catch (error) {
      if (isMissing(error) || errnoName(error) === 'EACCES') return [];
      throw error;
    }
  }

  /** Returns undefined if the directory no longer exists, or is not to be watched. */
  async #attach(parent: Node, name: string): Promise<Node | undefined> {
    const path = join(this.#path, relativePath(parent, name));
    try {
      if (!(await this.#mayWatch(path))) return undefined;
      if (!this.#open) return undefined;
      const watch = this.#inotify.add(path, MASK | IN.DONT_FOLLOW);
      const known = this.#nodes.get(watch);
      const node = known ?? {
        watch,
        name,
        parent,
        children: new Map(),
        listed: undefined,
      };
      // A bind mount of its own parents would make the tree of names endless.
      if (isAncestor(node, parent)) return undefined;
      this.#nodes.set(watch, node);
      this.#place(node, parent, name);
      return node;
    } catch (error) {
      if (isMissing(error) || errnoName(error) === 'EACCES') return undefined;
      throw error;
    }
  }

  async #mayWatch(path: string): Promise<boolean> {
    const type = await fileSystemType(path);
    if (type.kind === 'network') return this.#options.allowNetworkMounts;
    return type.kind === 'local';
  }

  #place(node: Node, parent: Node, name: string): void {
    if (node.parent?.children.get(node.name) === node) node.parent.children.delete(node.name);
    node.parent = parent;
    node.name = name;
    parent.children.set(name, node);
  }

  /** The first half of a rename; the second half places the node elsewhere. */
  #leave(node: Node, cookie: number): void {
    node.parent?.children.delete(node.name);
    this.#leaving.set(cookie, node);
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      this.#inotify.drain();
      this.#pending.push(() => {
        if (this.#leaving.delete(cookie)) this.#unwatch(node);
      });
      void this.#work();
    }, RENAME_GRACE_MS);
    timer.unref();
    this.#timers.add(timer);
  }

  #unwatch(node: Node): void {
    for (const child of node.children.values()) this.#unwatch(child);
    this.#inotify.remove(node.watch);
    this.#nodes.delete(node.watch);
  }

  /** The kernel has removed the watch: the directory was removed or unmounted. */
  #forget(node: Node): void {
    this.#nodes.delete(node.watch);
    if (node.parent?.children.get(node.name) === node) node.parent.children.delete(node.name);
  }
}

const LOST =
  'filesystem events were lost because they came faster than they were read: list the directory and watch it again';

/** Whether `node` is `descendant` or one of the directories above it. */
function isAncestor(node: Node, descendant: Node): boolean {
  for (let current: Node | undefined = descendant; current; current = current.parent) {
    if (current === node) return true;
  }
  return false;
}

function relativePath(node: Node, name?: string): string {
  const names = name === undefined ? [] : [name];
  for (let current: Node | undefined = node; current?.parent; current = current.parent) {
    names.unshift(current.name);
  }
  return names.join('/');
}

function watchError(path: string, error: unknown): ConnectError {
  const limit = { ENOSPC: 'max_user_watches', EMFILE: 'max_user_instances' }[
    errnoName(error) ?? ''
  ];
  if (limit === undefined) return filesystemError(`cannot watch ${path}`, error);
  return new TorporError(
    'sandbox_exhausted',
    `cannot watch ${path}: the limit fs.inotify.${limit} is reached; remove other watchers or raise it`,
  ).toConnectError();
}
