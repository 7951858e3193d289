import { readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { TorporError } from '@torpor/protocol/basics';
import { nearest } from './nearest.ts';
import { SETTINGS } from './settings.ts';

const FILE_NAME = 'torpor.toml';

/** The configuration file, if there is one. */
export interface ConfigFile {
  readonly path: string;
  /** `unreadable`: in the data directory, but this user may not read it, and so does not run the server. */
  readonly state: 'read' | 'missing' | 'unreadable';
  /** Values by the name of the setting, as text. */
  readonly values: ReadonlyMap<string, string>;
}

/** A file that the caller names, and where it was named: `--config`, for example. */
export interface NamedFile {
  readonly path: string;
  readonly origin: string;
}

/**
 * Reads `torpor.toml`. Throws `invalid_request` for a named file that does not exist or may not
 * be read, for invalid TOML, for a name that is not a setting, and for a value that is not a
 * string, a number or a boolean.
 */
export async function readConfigFile(
  dataDir: string,
  named: NamedFile | undefined,
): Promise<ConfigFile> {
  const path = named === undefined ? join(dataDir, FILE_NAME) : resolve(named.path);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (reason) {
    const state = stateOf(reason);
    if (named === undefined && state !== undefined) return { path, state, values: new Map() };
    throw new TorporError('invalid_request', `The configuration file ${path} cannot be read.`, {
      remedy: `It is named by ${named?.origin ?? 'the data directory'}: check that it exists and that you are allowed to read it.`,
      cause: reason,
    });
  }
  const table = await parseToml(path, text);
  const values = Object.entries(table).map(([name, value]) => {
    refuseUnknown(path, name);
    return [name, textOf(path, name, value)] as const;
  });
  if (named === undefined && Object.hasOwn(table, SETTINGS.dataDir.name)) throw misplaced(path);
  return { path, state: 'read', values: new Map(values) };
}

/** The directory that relative paths in a file are relative to. */
export function directoryOf(file: ConfigFile): string {
  return dirname(file.path);
}

function stateOf(reason: unknown): 'missing' | 'unreadable' | undefined {
  const code = reason instanceof Error && 'code' in reason ? reason.code : undefined;
  if (code === 'ENOENT' || code === 'ENOTDIR') return 'missing';
  return code === 'EACCES' ? 'unreadable' : undefined;
}

async function parseToml(path: string, text: string): Promise<Record<string, unknown>> {
  // Loaded here: most commands run without a file.
  const { parse } = await import('smol-toml');
  try {
    return parse(text);
  } catch (reason) {
    const [problem = ''] = (reason instanceof Error ? reason.message : String(reason)).split('\n');
    const line = reason instanceof Error && 'line' in reason ? `, line ${reason.line}` : '';
    const what = `${path}${line}: ${problem.replace(/^Invalid TOML document: /, '')}`;
    throw new TorporError('invalid_request', `The configuration file is not valid TOML: ${what}.`, {
      // Without the cause, which quotes the line: it may contain a secret.
      remedy: 'Write one setting per line, as in: port = 7070',
    });
  }
}

function refuseUnknown(path: string, name: string): void {
  const known = Object.values(SETTINGS).map((setting) => setting.name);
  if (known.includes(name)) return;
  const written = name
    .toLowerCase()
    .replaceAll('-', '_')
    .replace(/^torpor_/, '');
  const near = nearest(written, known);
  throw new TorporError('invalid_request', `${name} in ${path} is not a setting.`, {
    remedy: `${near === undefined ? '' : `Did you mean ${near}? `}\`torpor config\` lists all settings.`,
  });
}

function textOf(path: string, name: string, value: unknown): string {
  if (typeof value === 'string') return value;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  throw new TorporError('invalid_request', `${name} in ${path} is not a single value.`, {
    remedy: 'Write a string, a number, or true or false.',
  });
}

function misplaced(path: string): TorporError {
  return new TorporError('invalid_request', `data_dir in ${path} cannot name the data directory.`, {
    remedy: 'The file is found by the data directory: use TORPOR_DATA_DIR or --data-dir instead.',
  });
}
