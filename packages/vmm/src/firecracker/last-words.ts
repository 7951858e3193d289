import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readLastLines, readTail } from '../console-log.ts';
import { INSIDE, type MachineLayout } from './machine-layout.ts';

const KEPT_LOG_BYTES = 16 * 1024;

/** Keeps the end of Firecracker's own log with its other output, for the log goes with its root. */
export async function keepLog(layout: MachineLayout): Promise<void> {
  const log = await readTail(join(layout.root, INSIDE.log), KEPT_LOG_BYTES);
  if (log.length > 0) await appendFile(layout.output, log);
}

/** What Firecracker, or a program before it, said last. */
export async function lastWords(layout: MachineLayout): Promise<string> {
  const output = await readLastLines(layout.output, 3);
  const log = await readLastLines(join(layout.root, INSIDE.log), 3);
  return [...output, ...log].map((line) => line.replace(/\p{Cc}+/gu, ' ')).join(' ');
}
