import { readFileSync, statSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';

/** An account of the guest, as /etc/passwd and /etc/group describe it. */
export interface User {
  /** The number in decimal if no account has it. */
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  /** The primary group first, then the supplementary ones. */
  readonly groups: readonly number[];
  /** Absolute path; `/` if the account has none. */
  readonly home: string;
  /** Absolute path; `/bin/sh` if the account has none. */
  readonly shell: string;
}

interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Far above the size of a valid passwd file. */
const MAX_BYTES = 16n * 1024n * 1024n;

/** An image without /etc/passwd still has a superuser. */
const ROOT: PasswdEntry = {
  name: 'root',
  uid: 0,
  gid: 0,
  home: '/root',
  shell: '/bin/sh',
};

/**
 * The accounts of the guest. Reads passwd(5) and group(5) itself, because the C library's
 * lookup is that of the daemon's libc and not of the image's. A file is read again when its
 * modification time, size or inode changed. If a file is damaged, accounts that were resolved
 * earlier are returned as they were then, so that programs can still be started to repair it.
 */
export class UserDatabase {
  readonly #passwd: CachedFile<readonly PasswdEntry[]>;
  readonly #group: CachedFile<readonly GroupEntry[]>;
  /** The last resolved accounts, by the requested name. */
  readonly #known = new Map<string, User>();

  constructor(passwdPath = '/etc/passwd', groupPath = '/etc/group') {
    this.#passwd = new CachedFile(passwdPath, parsePasswd, []);
    this.#group = new CachedFile(groupPath, parseGroup, []);
  }

  /**
   * The account with this name, or with this number if no name matches. Throws
   * ConnectError `unauthenticated` for an unknown one.
   */
  resolve(name: string): User {
    const user = this.#find(name);
    if (user === undefined) {
      throw new ConnectError(`invalid username: '${name}'`, Code.Unauthenticated);
    }
    return user;
  }

  /**
   * Resolves `user` or `user:group`, each by name or number, like docker's `--user`: a number
   * needs no account (it then has the group 0 and the home `/`), and a group that is named is
   * the only one. Throws as {@link resolve} does, and ConnectError `invalid_argument` for an
   * unknown group.
   */
  resolveIdentity(identity: string): User {
    const [name = '', group] = identity.split(/:(.*)/s, 2);
    const user = isId(name) ? (this.#find(name) ?? numberedUser(name)) : this.resolve(name);
    if (group === undefined) return user;
    const gid = this.#groupId(group);
    return { ...user, gid, groups: [gid] };
  }

  #find(name: string): User | undefined {
    const entries = this.#passwd.read();
    const entry =
      entries.find((candidate) => candidate.name === name) ??
      (isId(name) ? entries.find((candidate) => candidate.uid === Number(name)) : undefined);
    if (entry !== undefined) {
      const user = this.#describe(entry);
      this.#known.set(name, user);
      return user;
    }
    // A valid file has an account of root: without one, it is taken as damaged.
    const known = entries.some(({ uid }) => uid === 0) ? undefined : this.#known.get(name);
    if (known !== undefined) return known;
    return name === ROOT.name || name === String(ROOT.uid) ? this.#describe(ROOT) : undefined;
  }

  #groupId(name: string): number {
    const entry = this.#group.read().find((candidate) => candidate.name === name);
    if (entry !== undefined) return entry.gid;
    if (isId(name)) return Number(name);
    throw new ConnectError(`there is no group "${name}" in the sandbox`, Code.InvalidArgument);
  }

  #describe(entry: PasswdEntry): User {
    const supplementary = this.#group
      .read()
      .filter((group) => group.members.includes(entry.name))
      .map((group) => group.gid);
    return {
      ...entry,
      home: entry.home === '' ? '/' : entry.home,
      shell: entry.shell === '' ? '/bin/sh' : entry.shell,
      groups: [...new Set([entry.gid, ...supplementary])],
    };
  }

  /** The name of an account, or its number in decimal if it has none. */
  userName(uid: number): string {
    const entries = this.#passwd.read();
    const entry = entries.find((candidate) => candidate.uid === uid);
    return entry?.name ?? (uid === ROOT.uid ? ROOT.name : String(uid));
  }

  /** The name of a group, or its number in decimal if it has none. */
  groupName(gid: number): string {
    return this.#group.read().find((entry) => entry.gid === gid)?.name ?? String(gid);
  }
}

function numberedUser(uid: string): User {
  return { name: uid, uid: Number(uid), gid: 0, groups: [0], home: '/', shell: '/bin/sh' };
}

/** A parsed file that is read again only when it changed; `fallback` when it cannot be read. */
class CachedFile<T> {
  readonly #path: string;
  readonly #parse: (text: string) => T;
  readonly #fallback: T;
  #key = '';
  #value: T;

  constructor(path: string, parse: (text: string) => T, fallback: T) {
    this.#path = path;
    this.#parse = parse;
    this.#fallback = fallback;
    this.#value = fallback;
  }

  read(): T {
    try {
      const stat = statSync(this.#path, { bigint: true });
      // Opening a named pipe would block the daemon until it has a writer.
      if (!stat.isFile() || stat.size > MAX_BYTES) return this.#fallback;
      const key = `${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}`;
      if (key !== this.#key) {
        this.#value = this.#parse(readFileSync(this.#path, 'utf8'));
        this.#key = key;
      }
      return this.#value;
    } catch {
      return this.#fallback;
    }
  }
}

function fieldsOf(text: string): string[][] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'));
}

function parsePasswd(text: string): PasswdEntry[] {
  const entries: PasswdEntry[] = [];
  for (const [name, , uid, gid, , home = '', shell = ''] of fieldsOf(text)) {
    if (name === undefined || !isId(uid) || !isId(gid)) continue;
    entries.push({ name, uid: Number(uid), gid: Number(gid), home, shell });
  }
  return entries;
}

function parseGroup(text: string): GroupEntry[] {
  const entries: GroupEntry[] = [];
  for (const [name, , gid, members = ''] of fieldsOf(text)) {
    if (name === undefined || !isId(gid)) continue;
    entries.push({
      name,
      gid: Number(gid),
      members: members.split(',').filter((member) => member !== ''),
    });
  }
  return entries;
}

/** The largest 32-bit number is not a valid id: setresuid(2) leaves the uid as it is. */
const MAX_ID = 0xffff_fffe;

function isId(field: string | undefined): field is string {
  return field !== undefined && /^\d{1,10}$/.test(field) && Number(field) <= MAX_ID;
}
