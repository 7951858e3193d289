import type { ExitStatus } from '@torpor/sdk';
import type { Io } from '../io.ts';
import { news } from './progress.ts';

const REMEDIES: Readonly<Record<string, string>> = {
  memory: 'End other programs in the sandbox, or create one with more memory.',
  processes:
    "End other programs; as root, all of the other accounts: torpor exec -u root <id> -- sh -c 'echo 1 > /sys/fs/cgroup/programs/unprivileged/cgroup.kill'",
};

/** Says so if a program ended because the sandbox ran out of something; the program itself could not. */
export function reportExhaustion(io: Io, { error }: Pick<ExitStatus, 'error'>): void {
  const what = /: out of (memory|processes)$/.exec(error ?? '')?.[1];
  if (what === undefined) return;
  news(io, `the program failed because the sandbox is out of ${what}\n  → ${REMEDIES[what]}`);
}
