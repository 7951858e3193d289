import type { Sandbox } from 'e2b';
import { beforeAll, describe, expect, it } from 'vitest';
import { sandboxOf, type TargetSource, until } from './harness.ts';

/** The behaviour of a guest's envd beyond E2B's protocol: rights, protection, the loopback forwarder. */
export function describeGuest(targetOf: TargetSource): void {
  describe('the envd of a guest', () => {
    let sandbox: Sandbox;

    beforeAll(() => {
      sandbox = sandboxOf(targetOf());
    });

    const output = async (command: string): Promise<string> =>
      (await sandbox.commands.run(command)).stdout.trim();

    it('runs as the user with all its groups, and as root through sudo', async () => {
      expect((await output('id -nG')).split(' ')).toContain('sudo');
      expect(await output('sudo -n id -u')).toBe('0');
    });

    it('is protected from the OOM killer, unlike programs', async () => {
      const score = (pid: string) => output(`cat /proc/${pid}/oom_score_adj`);
      // The child of tini: tini's own arguments name envd too.
      const daemon = await output("ps -eo pid,ppid,args | awk '$2 == 1 && /start.cjs/ {print $1}'");
      expect(await score(daemon)).toBe('-1000');
      expect(await score('self')).toBe('100');
      expect(Number(await output(`ps -o ni= -p ${daemon}`))).toBeLessThan(0);
      expect(await output('nice')).toBe('0');
      expect(await output('cat /proc/self/cgroup')).toBe('0::/programs/unprivileged');
    });

    it('responds while programs use all of the processor', async () => {
      const hogs = await sandbox.commands.run(
        'for i in $(seq 20); do (while :; do :; done) & done; echo started; wait',
        { background: true, timeoutMs: 0 },
      );
      try {
        await until('the hogs run', () => hogs.stdout.includes('started'));
        expect((await sandbox.commands.list()).length).toBeGreaterThan(0);
        expect(await sandbox.isRunning()).toBe(true);
      } finally {
        await hogs.kill();
      }
    });

    it("makes servers on loopback reachable on the guest's address", async () => {
      const server = await sandbox.commands.run(
        'cd /usr/share && exec python3 -m http.server --bind 127.0.0.1 8123',
        { background: true, timeoutMs: 0 },
      );
      try {
        await until(
          'it responds',
          async () => {
            const status = await output(
              "curl -s -m 5 -o /dev/null -w '%{http_code}' http://169.254.0.21:8123/ || true",
            );
            return status === '200';
          },
          90_000,
        );
      } finally {
        await server.kill();
      }
    });

    it('has the names from /init', async () => {
      expect(await output('hostname')).toBe('conformance');
      expect(await output('cat /etc/machine-id')).toBe('c0'.repeat(16));
      expect(await output('getent hosts conformance')).toContain('127.0.1.1');
    });
  });
}
