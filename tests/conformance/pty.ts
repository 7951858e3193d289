import type { CommandHandle, Sandbox } from 'e2b';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sandboxOf, type TargetSource, until } from './harness.ts';

const encoder = new TextEncoder();

/** The terminal module of the official client. */
export function describePty(targetOf: TargetSource): void {
  describe('terminals', () => {
    let sandbox: Sandbox;
    let screen: string;
    const opened: CommandHandle[] = [];

    beforeAll(() => {
      sandbox = sandboxOf(targetOf());
    });

    beforeEach(() => {
      screen = '';
    });

    afterEach(async () => {
      await Promise.all(opened.splice(0).map((terminal) => sandbox.pty.kill(terminal.pid)));
    });

    const onData = (data: Uint8Array): void => {
      screen += new TextDecoder().decode(data);
    };

    const open = async (envs: Record<string, string> = {}): Promise<CommandHandle> => {
      const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData, envs, timeoutMs: 0 });
      opened.push(terminal);
      return terminal;
    };

    const type = (terminal: CommandHandle, text: string): Promise<void> =>
      sandbox.pty.sendInput(terminal.pid, encoder.encode(text));

    /** Waits for output that no echo of the input contains. */
    const shown = (text: string): Promise<void> =>
      until(`the terminal shows ${text}`, () => screen.includes(text));

    it('runs a shell on a terminal of the given size', async () => {
      const terminal = await open({ GREETING: 'hello' });
      await type(terminal, 'echo "<$GREETING $(stty size) $TERM>"; tty\n');
      await shown('<hello 24 80 xterm-256color>');
      await shown('/dev/pts/');
    });

    it('belongs to the user of the terminal', async () => {
      const terminal = await open();
      await type(terminal, 'test -O "$(tty)" && echo mi"ne"; echo again > "$(tty)"\n');
      await shown('mine');
      await shown('\nagain');
    });

    it('changes its size', async () => {
      const terminal = await open();
      await sandbox.pty.resize(terminal.pid, { cols: 133, rows: 41 });
      await type(terminal, 'echo "<$(stty size)>"\n');
      await shown('<41 133>');
    });

    it('passes control characters to the foreground process', async () => {
      const terminal = await open();
      await type(terminal, `sh -c 'echo "<runs $((1+1))>"; exec sleep 600'\n`);
      await shown('<runs 2>');
      await type(terminal, '\x03');
      await type(terminal, 'echo "still $((40+2))"\n');
      await shown('still 42');
    });

    it('reports the exit code of the shell', async () => {
      const terminal = await open();
      await type(terminal, 'exit 5\n');
      await expect(terminal.wait()).rejects.toMatchObject({ exitCode: 5 });
    });

    it('can be left and connected to again', async () => {
      const terminal = await open();
      await type(terminal, 'mark=kept; echo "<$((20+2))>"\n');
      await shown('<22>');
      await terminal.disconnect();
      screen = '';
      const again = await sandbox.pty.connect(terminal.pid, { onData });
      await shown('<22>');
      await sandbox.pty.sendInput(again.pid, encoder.encode('echo "<$mark>"\n'));
      await shown('<kept>');
    });

    it('is killed with its background jobs', async () => {
      const terminal = await open();
      await type(terminal, 'sleep 600 & echo "<job $!>"\n');
      await until('the job has started', () => /<job \d+>/.test(screen));
      const job = /<job (\d+)>/.exec(screen)?.[1];
      expect(await sandbox.pty.kill(terminal.pid)).toBe(true);
      await expect(terminal.wait()).rejects.toMatchObject({ exitCode: -1 });
      await until('the job has exited', async () => {
        const { stdout } = await sandbox.commands.run(`test -d /proc/${job} || echo dead`);
        return stdout === 'dead\n';
      });
      expect(await sandbox.pty.kill(terminal.pid)).toBe(false);
    });

    it('delivers a flood of output complete', async () => {
      const terminal = await open();
      await type(terminal, 'stty -onlcr; head -c 3000000 /dev/zero | tr "\\0" z; exit\n');
      await terminal.wait();
      expect(screen.split('z').length - 1).toBeGreaterThanOrEqual(3_000_000);
    });
  });
}
