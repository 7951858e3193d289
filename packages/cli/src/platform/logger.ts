import type { Config } from '@torpor/control-plane/config';
import { type Logger, pino } from 'pino';
import type { Io, OutputStream } from '../io.ts';

/** Fields that pino adds and that are not shown to people. */
const HIDDEN = new Set(['level', 'time', 'pid', 'hostname', 'msg', 'err', 'part']);

export interface LoggerOptions {
  /** Whether to write JSON lines also to a terminal. */
  readonly asJson: boolean;
  /** If undefined, `info`, and `warn` for a terminal. */
  readonly level: Config['logLevel'];
}

/** The log, on standard error: JSON lines for programs; for a terminal one readable line each. */
export function createLogger({ stderr }: Io, { asJson, level }: LoggerOptions): Logger {
  const readable = stderr.isTTY === true && !asJson;
  const options = { level: level ?? (readable ? 'warn' : 'info') };
  return pino(options, readable ? readableLines(stderr) : lines(stderr));
}

function lines(stream: OutputStream) {
  return { write: (entry: string) => void stream.write(entry) };
}

function readableLines(stream: OutputStream) {
  return {
    write: (entry: string) => void stream.write(`${readableLine(entry)}\n`),
  };
}

/** One log entry for people: time, level, message, cause, and the other fields. */
export function readableLine(entry: string): string {
  const fields: Record<string, unknown> = JSON.parse(entry);
  const time = new Date(Number(fields.time)).toISOString().slice(11, 19);
  const level = pino.levels.labels[Number(fields.level)] ?? 'log';
  const error = fields.err;
  const cause =
    typeof error === 'object' && error !== null && 'message' in error ? `: ${error.message}` : '';
  const rest = Object.entries(fields)
    .filter(([name]) => !HIDDEN.has(name))
    .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ');
  return `${time} ${level.padEnd(5)} ${fields.msg ?? ''}${cause}${rest === '' ? '' : ` (${rest})`}`;
}
