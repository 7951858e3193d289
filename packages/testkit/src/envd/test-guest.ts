import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EnvdContext, UserDatabase } from '@torpor/envd/testing';

/** Accounts and a home of their own in a temporary directory, for tests on the plain host. */
export interface TestGuest extends AsyncDisposable {
  readonly directory: string;
  readonly home: string;
  readonly context: EnvdContext;
}

export const TEST_USER = { name: 'alice', uid: 12_345, group: 'crew', gid: 12_346 } as const;

/** The default user is root, whose home, like alice's, is in the temporary directory. */
export async function testGuest(accessToken?: string): Promise<TestGuest> {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-envd-'));
  const home = join(directory, 'alice');
  await mkdir(home);
  await mkdir(join(directory, 'root'));
  const passwd = join(directory, 'passwd');
  const group = join(directory, 'group');
  await writeFile(
    passwd,
    `root:x:0:0::${directory}/root:/bin/sh\nalice:x:${TEST_USER.uid}:${TEST_USER.gid}::${home}:/bin/sh\n`,
  );
  await writeFile(group, `root:x:0:\ncrew:x:${TEST_USER.gid}:\n`);
  return {
    directory,
    home,
    context: new EnvdContext({
      users: new UserDatabase(passwd, group),
      ...(accessToken === undefined ? {} : { accessToken }),
    }),
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  };
}
