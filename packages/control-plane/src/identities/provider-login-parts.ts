import type { SecretBox } from '../auth/secret-box.ts';
import type { AccountParts } from '../users/accounts.ts';
import type { Providers } from './providers.ts';

export interface ProviderLoginParts extends AccountParts {
  readonly secrets: SecretBox;
  readonly providers: Providers;
  /** Where browsers find the server; undefined if there are no providers. */
  readonly publicUrl: string | undefined;
  /** Whose verified email addresses may sign up though `signUpOpen` is false. */
  readonly signUpDomains: readonly string[];
}
