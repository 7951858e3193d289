import { fstatSync, ftruncateSync, writeSync } from 'node:fs';

const STDERR = 2;
const MAX_LOG_BYTES = 8 * 1024 * 1024;
const LEVELS = { info: 30, error: 50 } as const;

/**
 * Writes an event with its fields to standard error, a line of JSON as the agent's logger
 * writes it. A log file that is too large is truncated: the pager may run for months. What
 * cannot be written, on a full disk, is dropped.
 */
export function log(level: keyof typeof LEVELS, event: string, fields: object = {}): void {
  const line = { level: LEVELS[level], time: Date.now(), pid: process.pid, ...fields, msg: event };
  try {
    const found = fstatSync(STDERR);
    if (found.isFile() && found.size > MAX_LOG_BYTES) ftruncateSync(STDERR);
    writeSync(STDERR, `${JSON.stringify(line)}\n`);
  } catch {
    // Serving pages does not depend on the log.
  }
}
