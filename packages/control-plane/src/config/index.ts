export { type ConfiguredProviders, mailOf, providersOf } from './combined.ts';
export {
  type Config,
  type ConfigEntry,
  type ConfigSources,
  type LoadedConfig,
  loadConfig,
  type SettingOrigin,
} from './config.ts';
export {
  type ExecAuditLevel,
  LOG_LEVELS,
  placesOf,
  SETTINGS,
  type SettingKey,
} from './settings.ts';
export {
  DEFAULT_QUOTAS,
  duration,
  durationWithin,
  InvalidValueError,
  integer,
  type Parser,
  parseQuotas,
} from './values.ts';
