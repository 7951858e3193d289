import { TorporError } from '@torpor/protocol/basics';
import type { Config } from './config.ts';
import { SETTINGS, type SettingKey } from './settings.ts';

export interface ConfiguredMail {
  readonly smtpUrl: string;
  readonly from: string;
}

export interface ConfiguredClient {
  /** Of the provider. */
  readonly url: string;
  readonly clientId: string;
  readonly clientSecret: string;
}

export interface ConfiguredProviders {
  readonly github?: ConfiguredClient;
  readonly oidc?: ConfiguredClient & { readonly name: string };
}

/** Undefined if no mail is to be sent. Throws `invalid_request` if only some of its settings are set. */
export function mailOf(config: Config): ConfiguredMail | undefined {
  if (!areSet(config, ['smtpUrl', 'mailFrom'], ['publicUrl'])) return undefined;
  return { smtpUrl: config.smtpUrl ?? '', from: config.mailFrom ?? '' };
}

/** Services that users can log in with. Throws `invalid_request` if only some settings of one are set. */
export function providersOf(config: Config): ConfiguredProviders {
  const { githubUrl, oidcIssuer = '', oidcName } = config;
  const { githubClientId = '', githubClientSecret = '' } = config;
  const { oidcClientId = '', oidcClientSecret = '' } = config;
  const hasGithub = areSet(config, ['githubClientId', 'githubClientSecret'], ['publicUrl']);
  const hasOidc = areSet(config, ['oidcIssuer', 'oidcClientId', 'oidcClientSecret'], ['publicUrl']);
  return {
    ...(hasGithub
      ? { github: { url: githubUrl, clientId: githubClientId, clientSecret: githubClientSecret } }
      : {}),
    ...(hasOidc
      ? {
          oidc: {
            url: oidcIssuer,
            clientId: oidcClientId,
            clientSecret: oidcClientSecret,
            name: oidcName,
          },
        }
      : {}),
  };
}

/** `keys` belong together; `needed` are needed too, but for other things as well. */
function areSet(config: Config, keys: SettingKey[], needed: SettingKey[]): boolean {
  const isSet = (key: SettingKey) => config[key] !== undefined;
  const first = keys.find(isSet);
  if (first === undefined) return false;
  const missing = [...keys, ...needed].find((key) => !isSet(key));
  if (missing === undefined) return true;
  const { name, variable } = SETTINGS[missing];
  throw new TorporError(
    'invalid_request',
    `${SETTINGS[first].name} is set, but ${name} is not, and neither works without the other.`,
    { remedy: `Set ${name} in torpor.toml, or ${variable}.` },
  );
}
