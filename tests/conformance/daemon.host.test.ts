import { InvalidArgumentError, Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeFiles } from './files.ts';
import { describeGit } from './git.ts';
import { type HostTarget, sandboxOf, startHostTarget } from './harness.ts';
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

  it('refuses input that is too long for one message with the limit, and accepts it in pieces', async () => {
    const sandbox = sandboxOf(target());
    const command = await sandbox.commands.run('head -c 68157440 | wc -c', {
      background: true,
      stdin: true,
    });
    const mebibyte = 'x'.repeat(2 ** 20);
    const refused = command.sendStdin(mebibyte.repeat(65));
    await expect(refused).rejects.toThrow(InvalidArgumentError);
    await expect(refused).rejects.toThrow(/at most 67108864 bytes.*several pieces/);
    const piece = mebibyte.repeat(13);
    for (let sent = 0; sent < 5; sent++) await command.sendStdin(piece);
    expect((await command.wait()).stdout.trim()).toBe(String(65 * 2 ** 20));
  });
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
