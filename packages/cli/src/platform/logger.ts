import { TorporError } from '@torpor/protocol';
import { type Logger, pino } from 'pino';
import type { Io, OutputStream } from '../io.ts';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Fields that pino adds and a person does not read. */
const HIDDEN = new Set(['level', 'time', 'pid', 'hostname', 'msg', 'err', 'part']);

/**
 * The log, on standard error: JSON lines for programs; for a terminal one readable
 * line each, and by default only what is wrong. `TORPOR_LOG_LEVEL` sets the level.
 */
export function createLogger(io: Io, asJson: boolean): Logger {
  const readable = io.stderr.isTTY === true && !asJson;
  const level = logLevel(io.env.TORPOR_LOG_LEVEL) ?? (readable ? 'warn' : 'info');
  return pino({ level }, readable ? readableLines(io.stderr) : lines(io.stderr));
}

function logLevel(name: string | undefined): LogLevel | undefined {
  if (name === undefined || name === '') return undefined;
  const level = LOG_LEVELS.find((candidate) => candidate === name);
  if (level !== undefined) return level;
  throw new TorporError('invalid_request', `TORPOR_LOG_LEVEL is "${name}".`, {
    remedy: `Set it to one of ${LOG_LEVELS.join(', ')}.`,
  });
}

function lines(stream: OutputStream) {
  return { write: (entry: string) => void stream.write(entry) };
}

function readableLines(stream: OutputStream) {
  return {
    write: (entry: string) => void stream.write(`${readableLine(entry)}\n`),
  };
}

/** One entry of the log for a person: time, level, sentence, and what else it says. */
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
