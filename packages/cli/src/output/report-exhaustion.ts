import type { ExitStatus } from '@torpor/sdk';
import type { Io } from '../io.ts';
import { printStatus } from './progress.ts';

const REMEDIES: Readonly<Record<string, string>> = {
  memory: 'Kill other programs in the sandbox, or create one with more memory.',
  processes:
    "Kill other programs. This kills all programs of unprivileged users: torpor exec -u root <id> -- sh -c 'echo 1 > /sys/fs/cgroup/programs/unprivileged/cgroup.kill'",
};

/** Reports that a program failed because the sandbox ran out of a resource; the program itself could not. */
export function reportExhaustion(io: Io, { error }: Pick<ExitStatus, 'error'>): void {
  const what = /: out of (memory|processes)$/.exec(error ?? '')?.[1];
  if (what === undefined) return;
  printStatus(
    io,
    `the program failed because the sandbox is out of ${what}\n  → ${REMEDIES[what]}`,
  );
}
