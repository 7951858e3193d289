import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeFiles } from './files.ts';
import { describeGit } from './git.ts';
import { type HostTarget, startHostTarget } from './harness.ts';
import { describeProcesses } from './process.ts';
import { describePty } from './pty.ts';
import { describeSignedUrls } from './signed-urls.ts';
import { describeWatch } from './watch.ts';

describe('envd on this machine', () => {
  let host: HostTarget;

  beforeAll(async () => {
    host = await startHostTarget();
  });

  afterAll(async () => {
    await host[Symbol.asyncDispose]();
  });

  const target = () => host.target;

  describeProcesses(target);
  describePty(target);
  describeGit(target);
  describeFiles(target);
  describeWatch(target);
});

describe('envd on this machine, with an access token', () => {
  let host: HostTarget;

  beforeAll(async () => {
    host = await startHostTarget({ accessToken: 'a secret' });
  });

  afterAll(async () => {
    await host[Symbol.asyncDispose]();
  });

  describeProcesses(() => host.target);
  describeSignedUrls(() => host.target);

  it('is closed to a client without it', async () => {
    const sandbox = await Sandbox.create({
      debug: true,
      apiKey: `e2b_${'0'.repeat(40)}`,
      sandboxUrl: host.target.url,
    });
    await expect(sandbox.commands.run('true')).rejects.toThrow();
    expect(await sandbox.isRunning()).toBe(true);
  });
});
