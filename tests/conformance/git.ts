import type { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sandboxOf, type TargetSource, until } from './harness.ts';

/** The git helpers of the official client, with a bare repository as the remote. */
export function describeGit(targetOf: TargetSource): void {
  describe('git', () => {
    let sandbox: Sandbox;
    let base: string;

    beforeAll(async () => {
      sandbox = sandboxOf(targetOf());
      base = (await sandbox.commands.run('mktemp -d')).stdout.trim();
      await sandbox.git.configureUser('Ada', 'ada@example.org');
      await sandbox.git.setConfig('protocol.file.allow', 'always', { scope: 'global' });
    });

    afterAll(async () => {
      await sandbox.commands.run(`rm -rf '${base}'`);
    });

    const write = (path: string, text: string) =>
      sandbox.commands.run(`printf '%s\\n' '${text}' > '${path}'`);

    /** A bare remote with one commit on main, and its clone. */
    const cloneOf = async (name: string): Promise<{ remote: string; work: string }> => {
      const remote = `${base}/${name}.git`;
      const seed = `${base}/${name}-seed`;
      const work = `${base}/${name}`;
      await sandbox.git.init(remote, { bare: true, initialBranch: 'main' });
      await sandbox.git.init(seed, { initialBranch: 'main' });
      await write(`${seed}/README`, 'first');
      await sandbox.git.add(seed);
      await sandbox.git.commit(seed, 'First');
      await sandbox.git.remoteAdd(seed, 'origin', remote);
      await sandbox.git.push(seed, { remote: 'origin', branch: 'main', setUpstream: true });
      await sandbox.git.clone(remote, { path: work });
      return { remote, work };
    };

    it('clones, and the clone is clean', async () => {
      const { remote, work } = await cloneOf('clean');
      expect(await sandbox.git.remoteGet(work, 'origin')).toBe(remote);
      expect(await sandbox.git.status(work)).toMatchObject({
        currentBranch: 'main',
        upstream: 'origin/main',
        ahead: 0,
        behind: 0,
        isClean: true,
      });
    });

    it('clones from a git daemon', async () => {
      const { remote } = await cloneOf('served');
      await sandbox.commands.run(`touch '${remote}/git-daemon-export-ok'`);
      const port = 20_000 + Math.floor(Math.random() * 10_000);
      const daemon = await sandbox.commands.run(
        `git daemon --listen=127.0.0.1 --port=${port} --base-path='${base}'`,
        { background: true, timeoutMs: 0 },
      );
      try {
        const url = `git://127.0.0.1:${port}/served.git`;
        await until('the git daemon responds', async () => {
          const { stdout } = await sandbox.commands.run(`git ls-remote ${url} || true`);
          return stdout.includes('refs/heads/main');
        });
        await sandbox.git.clone(url, { path: `${base}/from-daemon`, depth: 1 });
        const { stdout } = await sandbox.commands.run(`cat '${base}/from-daemon/README'`);
        expect(stdout).toBe('first\n');
      } finally {
        await daemon.kill();
      }
    });

    it('stages, commits and counts the commits ahead', async () => {
      const { work } = await cloneOf('ahead');
      await write(`${work}/new`, 'new');
      await write(`${work}/README`, 'changed');
      expect(await sandbox.git.status(work)).toMatchObject({
        hasChanges: true,
        hasStaged: false,
        untrackedCount: 1,
        totalCount: 2,
      });
      await sandbox.git.add(work, { files: ['new'] });
      expect(await sandbox.git.status(work)).toMatchObject({ stagedCount: 1, hasUntracked: false });
      await sandbox.git.restore(work, { paths: ['README'] });
      await sandbox.git.commit(work, 'Second', {
        authorName: 'Grace',
        authorEmail: 'grace@example.org',
      });
      expect(await sandbox.git.status(work)).toMatchObject({ isClean: true, ahead: 1 });
      const { stdout } = await sandbox.commands.run(`git -C '${work}' log -1 --format='%an %s'`);
      expect(stdout).toBe('Grace Second\n');
    });

    it('creates, lists, switches and deletes branches', async () => {
      const { work } = await cloneOf('branches');
      await sandbox.git.createBranch(work, 'feature');
      expect(await sandbox.git.branches(work)).toMatchObject({ currentBranch: 'feature' });
      await sandbox.git.checkoutBranch(work, 'main');
      const { branches, currentBranch } = await sandbox.git.branches(work);
      expect(branches).toEqual(expect.arrayContaining(['feature', 'main']));
      expect(currentBranch).toBe('main');
      await sandbox.git.deleteBranch(work, 'feature');
      expect((await sandbox.git.branches(work)).branches).not.toContain('feature');
    });

    it('pushes to the remote and pulls from it', async () => {
      const { remote, work } = await cloneOf('shared');
      const other = `${base}/shared-other`;
      await sandbox.git.clone(remote, { path: other });
      await write(`${work}/from-work`, 'pushed');
      await sandbox.git.add(work);
      await sandbox.git.commit(work, 'Pushed');
      await sandbox.git.push(work);
      await sandbox.git.pull(other);
      const { stdout } = await sandbox.commands.run(`cat '${other}/from-work'`);
      expect(stdout).toBe('pushed\n');
    });

    it('reverts commits and unstages files', async () => {
      const { work } = await cloneOf('reset');
      await write(`${work}/README`, 'second');
      await sandbox.git.add(work);
      await sandbox.git.reset(work);
      expect(await sandbox.git.status(work)).toMatchObject({ hasStaged: false, hasChanges: true });
      await sandbox.git.reset(work, { mode: 'hard', target: 'HEAD' });
      expect(await sandbox.git.status(work)).toMatchObject({ isClean: true });
    });

    it('stores its configuration in the given scope', async () => {
      const { work } = await cloneOf('config');
      await sandbox.git.setConfig('torpor.test', 'local', { scope: 'local', path: work });
      expect(await sandbox.git.getConfig('torpor.test', { scope: 'local', path: work })).toBe(
        'local',
      );
      expect(await sandbox.git.getConfig('user.name', { scope: 'global' })).toBe('Ada');
      expect(await sandbox.git.getConfig('torpor.unset', { scope: 'global' })).toBeUndefined();
    });
  });
}
