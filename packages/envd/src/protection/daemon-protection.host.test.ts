import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

const isRoot = process.getuid?.() === 0;
/** A container's root may not lower the score. Then it must be unchanged. */
const maySpare =
  isRoot && spawnSync('sh', ['-c', 'echo -1000 > /proc/self/oom_score_adj']).status === 0;
const ownScore = Number(readFileSync('/proc/self/oom_score_adj', 'utf8'));
const DAEMON_SCORE = maySpare ? -1000 : ownScore;
const CHILD_SCORE = maySpare ? 100 : ownScore;

/** The kernel's settings of a protected process and of a child that it forks. */
function inProtectedProcess(script: string): unknown {
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { spawnSync } from 'node:child_process';
       import { readFileSync, readdirSync } from 'node:fs';
       import { getPriority } from 'node:os';
       import { DaemonProtection } from './daemon-protection.ts';
       const score = () => Number(readFileSync('/proc/self/oom_score_adj', 'utf8'));
       const protection = DaemonProtection.enable('/no/cgroups/here');
       ${script}`,
    ],
    { cwd: import.meta.dirname, encoding: 'utf8' },
  );
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout);
}

describe.runIf(isRoot)('DaemonProtection', () => {
  it('raises the priority of every thread of the daemon and protects it from the out-of-memory killer', () => {
    const seen = inProtectedProcess(
      `const nices = readdirSync('/proc/self/task').map((thread) => getPriority(Number(thread)));
       console.log(JSON.stringify({ nices: [...new Set(nices)], score: score() }));`,
    );
    expect(seen).toEqual({ nices: [-15], score: DAEMON_SCORE });
  });

  it('is not inherited by a child, and is restored afterwards', () => {
    const seen = inProtectedProcess(
      `const child = protection.suspended(() =>
         spawnSync('sh', ['-c', 'nice; cat /proc/self/oom_score_adj'], { encoding: 'utf8' }).stdout);
       console.log(JSON.stringify({ child, nice: getPriority(), score: score() }));`,
    );
    expect(seen).toEqual({ child: `0\n${CHILD_SCORE}\n`, nice: -15, score: DAEMON_SCORE });
  });

  it('is restored also when nothing could be started', () => {
    const seen = inProtectedProcess(
      `let thrown;
       try { protection.suspended(() => { throw new Error('no'); }); } catch (error) { thrown = error.message; }
       console.log(JSON.stringify({ thrown, nice: getPriority(), score: score() }));`,
    );
    expect(seen).toEqual({ thrown: 'no', nice: -15, score: DAEMON_SCORE });
  });
});
