import { TorporError } from '@torpor/protocol/basics';
import { type ConfigFile, directoryOf, type NamedFile, readConfigFile } from './file.ts';
import { SETTINGS, type Setting, type SettingKey, type SettingValues } from './settings.ts';
import { InvalidValueError } from './values.ts';

/** Every setting with its value: what is not set has its default. */
export interface Config extends SettingValues {
  readonly cacheDir: string;
}

export type SettingOrigin =
  | { readonly kind: 'flag' | 'environment'; readonly name: string }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'default' };

/** A setting as it is shown to people and programs, without secrets. */
export interface ConfigEntry {
  readonly name: string;
  readonly variable: string;
  readonly flag?: string;
  readonly meaning: string;
  /** Undefined if it is not set, or if all of it is secret. */
  readonly value: string | number | boolean | undefined;
  readonly secret: boolean;
  readonly origin: SettingOrigin;
  /** What applies if it is not set and has no default value. */
  readonly unset?: string;
}

export interface LoadedConfig {
  readonly config: Config;
  /** All settings, in the order of the table. */
  readonly entries: readonly ConfigEntry[];
  readonly file: ConfigFile;
}

export interface ConfigSources {
  /** From the command line, by the key of the setting: as text, or parsed. Undefined if not given. */
  readonly flags?: Readonly<Partial<Record<SettingKey, string | number | boolean | undefined>>>;
  /** What `--config` names. */
  readonly configFile?: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
}

const CONFIG_VARIABLE = 'TORPOR_CONFIG';

/**
 * Reads every setting once: from the command line, else the environment, else the
 * configuration file, else its default. An empty variable counts as not set. Throws
 * `invalid_request`, which names the origin of the wrong value and says what to write instead.
 */
export async function loadConfig(sources: ConfigSources): Promise<LoadedConfig> {
  const named = namedFile(sources);
  // A named file may say where the data directory is, which in turn says where another file is.
  const dataDir = given(sources, 'dataDir')?.value ?? SETTINGS.dataDir.defaultValue;
  const file = await readConfigFile(String(dataDir), named);
  const resolved = new Map<SettingKey, Resolved>();
  for (const key of settingKeys()) resolved.set(key, resolveSetting(sources, file, key));
  const values = Object.fromEntries(
    [...resolved].map(([key, { value }]) => [key, value]),
  ) as unknown as SettingValues;
  return {
    config: { ...values, cacheDir: values.cacheDir ?? values.dataDir },
    entries: [...resolved].map(([key, setting]) => entryOf(key, setting)),
    file,
  };
}

type SettingValue = string | number | boolean;

interface Resolved {
  readonly value: SettingValue | undefined;
  readonly origin: SettingOrigin;
}

function settingKeys(): SettingKey[] {
  return Object.keys(SETTINGS) as SettingKey[];
}

/** An entry of the table, with a value of any type. */
type AnySetting = Setting<SettingValue> & { readonly defaultValue?: SettingValue };

const TABLE: Readonly<Record<SettingKey, AnySetting>> = SETTINGS;

function namedFile({ configFile, env }: ConfigSources): NamedFile | undefined {
  if (configFile !== undefined) return { path: configFile, origin: '--config' };
  const path = env[CONFIG_VARIABLE];
  return path ? { path, origin: CONFIG_VARIABLE } : undefined;
}

function resolveSetting(sources: ConfigSources, file: ConfigFile, key: SettingKey): Resolved {
  const setting = TABLE[key];
  const direct = given(sources, key);
  if (direct !== undefined) return direct;
  const text = file.values.get(setting.name);
  if (text !== undefined) {
    const where = `${setting.name} in ${file.path}`;
    const value = parseSetting(setting, text, where, directoryOf(file));
    return { value, origin: { kind: 'file', path: file.path } };
  }
  return { value: setting.defaultValue, origin: { kind: 'default' } };
}

/** The value from the command line or the environment. */
function given({ flags = {}, env }: ConfigSources, key: SettingKey): Resolved | undefined {
  const setting = TABLE[key];
  const flag = flags[key];
  if (flag !== undefined) {
    const name = setting.flag ?? setting.name;
    const value = typeof flag === 'string' ? parseSetting(setting, flag, name) : flag;
    return { value, origin: { kind: 'flag', name } };
  }
  const text = env[setting.variable];
  if (text === undefined || text === '') return undefined;
  const value = parseSetting(setting, text, setting.variable);
  return { value, origin: { kind: 'environment', name: setting.variable } };
}

function parseSetting(
  setting: Setting<SettingValue>,
  text: string,
  origin: string,
  directory = process.cwd(),
): SettingValue {
  try {
    if (text === '') throw new InvalidValueError('It must not be empty.');
    return setting.parse(text, directory);
  } catch (error) {
    if (!(error instanceof InvalidValueError)) throw error;
    // What precedes an @ may be a password.
    const what =
      setting.secret || text.includes('@')
        ? `${origin} is not valid.`
        : `${origin} has the invalid value ${JSON.stringify(text)}.`;
    throw new TorporError('invalid_request', what, { remedy: error.message, cause: error });
  }
}

function entryOf(key: SettingKey, { value, origin }: Resolved): ConfigEntry {
  const { name, variable, flag, meaning, show, secret, unset } = TABLE[key];
  return {
    name,
    variable,
    ...(flag === undefined ? {} : { flag }),
    meaning,
    value: value === undefined ? undefined : show(value),
    secret: secret === true,
    origin,
    ...(value === undefined && unset !== undefined ? { unset } : {}),
  };
}
