import { CommandExitError, type Sandbox, TimeoutError } from 'e2b';
import { beforeAll, describe, expect, it } from 'vitest';
import { sandboxOf, type TargetSource, until } from './harness.ts';

/** The commands module of the official client. */
export function describeProcesses(targetOf: TargetSource): void {
  describe('commands', () => {
    let sandbox: Sandbox;

    beforeAll(() => {
      sandbox = sandboxOf(targetOf());
    });

    const isAlive = async (pid: number | string): Promise<boolean> => {
      const { stdout } = await sandbox.commands.run(
        `test -d /proc/${pid} && echo alive || echo dead`,
      );
      return stdout.trim() === 'alive';
    };

    it('responds to the health check', async () => {
      expect(await sandbox.isRunning()).toBe(true);
    });

    it('returns both outputs and the exit code', async () => {
      const result = await sandbox.commands.run('echo out; echo err >&2');
      expect(result).toMatchObject({ exitCode: 0, stdout: 'out\n', stderr: 'err\n' });
    });

    it('throws for an exit code other than 0', async () => {
      const failure = sandbox.commands.run('echo partly; exit 7');
      await expect(failure).rejects.toThrow(CommandExitError);
      await expect(failure).rejects.toMatchObject({ exitCode: 7, stdout: 'partly\n' });
    });

    it('does not split characters of several bytes', async () => {
      const text = 'žluťoučký kůň 🐴 ';
      const { stdout } = await sandbox.commands.run(
        `for i in $(seq 2000); do printf '${text}'; done`,
        { timeoutMs: 0 },
      );
      expect(stdout).toBe(text.repeat(2000));
    });

    it('passes output on as it is printed', async () => {
      const seen: string[] = [];
      const command = await sandbox.commands.run('echo first; read line; echo "then $line"', {
        background: true,
        stdin: true,
        onStdout: (data) => {
          seen.push(data);
        },
      });
      await until('the first line has come', () => seen.join('') === 'first\n');
      await command.sendStdin('second\n');
      const { stdout } = await command.wait();
      expect(stdout).toBe('first\nthen second\n');
    });

    it('starts in the default directory, as the default user', async () => {
      const { user, workdir } = targetOf();
      const { stdout } = await sandbox.commands.run('id -un; pwd');
      expect(stdout).toBe(`${user}\n${workdir}\n`);
    });

    it('starts in the requested directory', async () => {
      const { stdout } = await sandbox.commands.run('pwd', { cwd: '/usr/bin' });
      expect(stdout).toBe('/usr/bin\n');
      await expect(sandbox.commands.run('pwd', { cwd: '/does/not/exist' })).rejects.toThrow(
        "cwd '/does/not/exist' does not exist",
      );
    });

    it('adds the variables of the request', async () => {
      const { stdout } = await sandbox.commands.run('echo "$GREETING"', {
        envs: { GREETING: 'a "quoted" $value' },
      });
      expect(stdout).toBe('a "quoted" $value\n');
    });

    it('refuses an account that does not exist', async () => {
      await expect(sandbox.commands.run('true', { user: 'nobody-knows' })).rejects.toThrow(
        "invalid username: 'nobody-knows'",
      );
    });

    it('runs as root if requested', async () => {
      const { stdout } = await sandbox.commands.run('id -u', { user: 'root' });
      expect(stdout).toBe('0\n');
    });

    it('closes the standard input when requested', async () => {
      const command = await sandbox.commands.run('wc -c', { background: true, stdin: true });
      await command.sendStdin('x'.repeat(1000));
      await command.closeStdin();
      expect((await command.wait()).stdout.trim()).toBe('1000');
    });

    it('has no standard input unless requested', async () => {
      expect((await sandbox.commands.run('cat')).stdout).toBe('');
    });

    it('lists running commands, and kills one with its descendants', async () => {
      const command = await sandbox.commands.run('sleep 600 & echo $!; wait', { background: true });
      await until('the descendant has started', () => command.stdout.includes('\n'));
      const descendant = command.stdout.trim();
      const listed = (await sandbox.commands.list()).find(({ pid }) => pid === command.pid);
      expect(listed).toMatchObject({
        cmd: '/bin/bash',
        args: ['-l', '-c', 'sleep 600 & echo $!; wait'],
      });
      expect(await command.kill()).toBe(true);
      await expect(command.wait()).rejects.toMatchObject({ exitCode: -1, error: 'signal: killed' });
      await until('the descendant has exited', async () => !(await isAlive(descendant)));
      const pids = (await sandbox.commands.list()).map(({ pid }) => pid);
      expect(pids).not.toContain(command.pid);
      expect(await sandbox.commands.kill(command.pid)).toBe(false);
    });

    it('does not wait for a background job that holds the output', async () => {
      const { stdout } = await sandbox.commands.run('sleep 600 & echo $!');
      const job = stdout.trim();
      expect(await isAlive(job)).toBe(true);
      await sandbox.commands.run(`kill ${job}`);
    });

    it('keeps running after the client has disconnected, and can be followed again', async () => {
      const command = await sandbox.commands.run(
        'echo before; while ! test -e "$FLAG"; do sleep 0.05; done; echo after',
        { background: true, envs: { FLAG: '/tmp/torpor-conformance-$$' } },
      );
      await until('output has come', () => command.stdout === 'before\n');
      await command.disconnect();
      const again = await sandbox.commands.connect(command.pid);
      expect(again.pid).toBe(command.pid);
      await until('the earlier output is repeated', () => again.stdout === 'before\n');
      await sandbox.commands.run("touch '/tmp/torpor-conformance-$$'");
      try {
        expect(await again.wait()).toMatchObject({ exitCode: 0, stdout: 'before\nafter\n' });
      } finally {
        await sandbox.commands.run("rm -f '/tmp/torpor-conformance-$$'");
      }
    });

    it('sends a late client the last output and the exit', async () => {
      const command = await sandbox.commands.run('echo all; exit 3', { background: true });
      await expect(command.wait()).rejects.toThrow(CommandExitError);
      const late = await sandbox.commands.connect(command.pid);
      await expect(late.wait()).rejects.toMatchObject({ exitCode: 3, stdout: 'all\n' });
    });

    it('kills a foreground command at its deadline', async () => {
      const marker = `torpor-deadline-${Date.now()}`;
      const failure = sandbox.commands.run(`exec -a ${marker} sleep 600`, { timeoutMs: 1000 });
      await expect(failure).rejects.toThrow(TimeoutError);
      await until('it has exited', async () => {
        const running = await sandbox.commands.list();
        return !running.some(({ args }) => args.some((arg) => arg.includes(marker)));
      });
    });

    it('has no deadline when the timeout is 0', async () => {
      const { stdout } = await sandbox.commands.run('sleep 0.2; echo done', { timeoutMs: 0 });
      expect(stdout).toBe('done\n');
    });

    it('delivers a large output complete', async () => {
      // Without a deadline: an emulated guest on a busy machine needs its time.
      const { stdout } = await sandbox.commands.run('head -c 4000000 /dev/zero | tr "\\0" a', {
        timeoutMs: 0,
      });
      expect(stdout.length).toBe(4_000_000);
      expect(/^a+$/.test(stdout)).toBe(true);
    });

    it('follows many commands at the same time', async () => {
      const results = await Promise.all(
        Array.from({ length: 12 }, (_, index) => sandbox.commands.run(`echo ${index}`)),
      );
      expect(results.map(({ stdout }) => stdout)).toEqual(
        Array.from({ length: 12 }, (_, index) => `${index}\n`),
      );
    });
  });
}
