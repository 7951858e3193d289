import { readdirSync, readFileSync } from 'node:fs';

/**
 * Sends a signal to the process group that `leader` leads and to every other process of its
 * session: the background jobs of an interactive shell are in groups of their own. The leader
 * must not have been reaped yet. It is not an error if a process has exited meanwhile.
 */
export function signalSession(leader: number, signal: number | NodeJS.Signals): void {
  const others = membersOfSession(leader);
  signalIfAlive(-leader, signal);
  for (const pid of others) signalIfAlive(pid, signal);
}

/** The processes of a session that are not in its leader's group; proc_pid_stat(5). */
function membersOfSession(leader: number): number[] {
  const members: number[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1');
      // The name in parentheses may contain anything; the fields follow the last parenthesis.
      const [, , group, session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      if (Number(session) === leader && Number(group) !== leader) {
        members.push(Number(name));
      }
    } catch {
      // It exited meanwhile.
    }
  }
  return members;
}

function signalIfAlive(pid: number, signal: number | NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    const hasExited = error instanceof Error && 'code' in error && error.code === 'ESRCH';
    if (!hasExited) throw error;
  }
}
