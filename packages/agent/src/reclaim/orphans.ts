import { readdir, readFile } from 'node:fs/promises';
import { identifyProcess, type ProcessIdentity } from '@torpor/linux';

export interface VmmOrphan {
  readonly identity: ProcessIdentity;
  readonly sandboxId: string;
}

const VMM_PROGRAMS = /^(?:qemu|firecracker|nsenter)/;

/**
 * The VMM processes whose arguments name a run directory below `runRoot`: a crash
 * between the start of a VMM and the journal's entry for it leaves one that only
 * its command line tells of.
 */
export async function findVmms(runRoot: string): Promise<VmmOrphan[]> {
  const found: VmmOrphan[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^[0-9]+$/.test(entry)) continue;
    const identity = identifyProcess(Number(entry));
    const sandboxId = identity && (await sandboxOf(identity.pid, runRoot));
    if (identity && sandboxId) found.push({ identity, sandboxId });
  }
  return found;
}

async function sandboxOf(pid: number, runRoot: string): Promise<string | undefined> {
  try {
    const [name, commandLine] = await Promise.all([
      readFile(`/proc/${pid}/comm`, 'utf8'),
      readFile(`/proc/${pid}/cmdline`, 'utf8'),
    ]);
    if (!VMM_PROGRAMS.test(name)) return undefined;
    for (const argument of commandLine.split('\0')) {
      const at = argument.indexOf(`${runRoot}/`);
      if (at < 0) continue;
      const [id] = argument.slice(at + runRoot.length + 1).split('/');
      if (id !== undefined && /^[a-z0-9-]+$/.test(id)) return id;
    }
  } catch {
    // It ended while it was looked at.
  }
  return undefined;
}
