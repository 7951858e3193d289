import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { basicUserName, EnvdContext } from './context.ts';
import { UserDatabase } from './users.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-users-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true });
});

async function database(passwd: string, group = ''): Promise<UserDatabase> {
  await writeFile(join(directory, 'passwd'), passwd);
  await writeFile(join(directory, 'group'), group);
  return new UserDatabase(join(directory, 'passwd'), join(directory, 'group'));
}

const PASSWD = `root:x:0:0:root:/root:/bin/bash
# a comment
user:x:1000:1000:,,,:/home/user:/bin/bash
bare:x:1001:1002:::
broken line
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
`;
const GROUP = `root:x:0:
sudo:x:27:user,other
users:x:100:user
user:x:1000:
twice:x:1000:user
`;

describe('UserDatabase', () => {
  it('resolves an account with all its groups', async () => {
    const users = await database(PASSWD, GROUP);
    expect(users.resolve('user')).toEqual({
      name: 'user',
      uid: 1000,
      gid: 1000,
      groups: [1000, 27, 100],
      home: '/home/user',
      shell: '/bin/bash',
    });
  });

  it('completes an account without home and shell', async () => {
    const users = await database(PASSWD, GROUP);
    expect(users.resolve('bare')).toMatchObject({ home: '/', shell: '/bin/sh', groups: [1002] });
  });

  it('accepts a number in place of a name', async () => {
    const users = await database(PASSWD, GROUP);
    expect(users.resolve('1001').name).toBe('bare');
  });

  it.each(['ghost', '', '4242', 'broken line', 'root:x'])('does not resolve %j', async (name) => {
    const users = await database(PASSWD, GROUP);
    expect(() => users.resolve(name)).toThrow(
      expect.objectContaining({
        code: Code.Unauthenticated,
        rawMessage: `invalid username: '${name}'`,
      }),
    );
  });

  it.each<[identity: string, expected: object]>([
    ['user', { uid: 1000, gid: 1000, groups: [1000, 27, 100], home: '/home/user' }],
    ['1000', { name: 'user', groups: [1000, 27, 100] }],
    ['4242', { name: '4242', uid: 4242, gid: 0, groups: [0], home: '/', shell: '/bin/sh' }],
    ['4242:4343', { uid: 4242, gid: 4343, groups: [4343], home: '/' }],
    ['4242:sudo', { uid: 4242, gid: 27, groups: [27] }],
    ['user:users', { uid: 1000, gid: 100, groups: [100], home: '/home/user' }],
    ['1000:0', { name: 'user', uid: 1000, gid: 0, groups: [0] }],
    ['4294967294', { uid: 4_294_967_294 }],
  ])('resolves the identity %j as docker does', async (identity, expected) => {
    const users = await database(PASSWD, GROUP);
    expect(users.resolveIdentity(identity)).toMatchObject(expected);
  });

  it.each([
    ['ghost', `invalid username: 'ghost'`],
    ['ghost:sudo', `invalid username: 'ghost'`],
    ['', `invalid username: ''`],
    [':sudo', `invalid username: ''`],
    // setresuid(2) takes this number as no change of the uid, which is root's.
    ['4294967295', `invalid username: '4294967295'`],
    ['user:ghosts', `there is no group "ghosts" in the sandbox`],
    ['user:4294967295', `there is no group "4294967295" in the sandbox`],
    ['user:', `there is no group "" in the sandbox`],
  ])('refuses the identity %j', async (identity, message) => {
    const users = await database(PASSWD, GROUP);
    expect(() => users.resolveIdentity(identity)).toThrow(message);
  });

  it('has a superuser even in an image without accounts', () => {
    const users = new UserDatabase(join(directory, 'none'), join(directory, 'none'));
    const root = { name: 'root', uid: 0, home: '/root', groups: [0] };
    expect(users.resolve('root')).toEqual({ ...root, gid: 0, shell: '/bin/sh' });
    expect(users.resolveIdentity('0')).toMatchObject(root);
    expect(users.resolveIdentity('1000')).toMatchObject({ uid: 1000, gid: 0, home: '/' });
  });

  it.each([
    ['is missing', 'rm passwd'],
    ['is empty', ': > passwd'],
    ['has other content', 'echo a::b > passwd'],
    ['is a directory', 'rm passwd; mkdir passwd'],
    ['is a link in a circle', 'rm passwd; ln -s passwd passwd'],
    ['is a named pipe', 'rm passwd; mkfifo passwd'],
  ])('still resolves an earlier account when passwd %s', async (_what, damage) => {
    const users = await database(PASSWD, GROUP);
    const before = users.resolve('user');
    execFileSync('sh', ['-c', damage], { cwd: directory });
    expect(users.resolve('user')).toEqual(before);
    expect(users.resolve('root')).toMatchObject({ uid: 0, home: '/root' });
    expect(users.userName(0)).toBe('root');
    expect(() => users.resolve('bare')).toThrow(`invalid username: 'bare'`);
  });

  it('does not resolve an account that was removed', async () => {
    const users = await database(PASSWD, GROUP);
    users.resolve('user');
    await writeFile(join(directory, 'passwd'), PASSWD.replace('user:x', 'resu:x'));
    expect(() => users.resolve('user')).toThrow(`invalid username: 'user'`);
  });

  it('resolves accounts that are added later', async () => {
    const users = await database(PASSWD, GROUP);
    expect(() => users.resolve('late')).toThrow();
    await writeFile(join(directory, 'passwd'), `${PASSWD}late:x:2000:2000::/home/late:/bin/sh\n`);
    expect(users.resolve('late').uid).toBe(2000);
  });

  it('returns the names of owners and groups, or their numbers if they have none', async () => {
    const users = await database(PASSWD, GROUP);
    expect([
      users.userName(1),
      users.userName(77),
      users.groupName(27),
      users.groupName(77),
    ]).toEqual(['daemon', '77', 'sudo', '77']);
  });
});

describe('EnvdContext', () => {
  const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;

  it.each([
    [undefined, undefined],
    ['', undefined],
    [basic('user:'), 'user'],
    [basic('user:with a password:'), 'user'],
    [basic('user'), 'user'],
    [basic(':'), undefined],
    ['Bearer abc', undefined],
    ['basic dXNlcjo=', 'user'],
  ])('reads the account from %j', (header, name) => {
    expect(basicUserName(header)).toBe(name);
  });

  it('resolves paths from the home of the account', async () => {
    const context = new EnvdContext({ users: await database(PASSWD, GROUP), defaultUser: 'user' });
    const user = context.resolveUser();
    const resolved = ['', '~', '~/a', 'a/../b', './c', '/x//y/../z', '/'].map((path) =>
      context.resolvePath(path, user),
    );
    expect(resolved).toEqual([
      '/home/user',
      '/home/user',
      '/home/user/a',
      '/home/user/b',
      '/home/user/c',
      '/x/z',
      '/',
    ]);
    context.defaultWorkdir = '/work';
    expect(context.resolvePath('', user)).toBe('/work');
    expect(context.resolvePath('a', user)).toBe('/home/user/a');
  });

  it.each(['~root/x', 'a\0b'])('refuses the path %j', async (path) => {
    const context = new EnvdContext({ users: await database(PASSWD, GROUP), defaultUser: 'user' });
    expect(() => context.resolvePath(path, context.resolveUser())).toThrow(
      expect.objectContaining({ code: Code.InvalidArgument }),
    );
  });
});
