import { TorporError } from '@torpor/protocol';
import type { ConfiguredProviders } from '../config/combined.ts';
import { GithubProvider } from './github-provider.ts';
import { OidcProvider } from './oidc-provider.ts';
import type { Provider } from './provider.ts';

/** The services that users can log in with. */
export class Providers {
  readonly all: readonly Provider[];

  constructor({ github, oidc }: ConfiguredProviders) {
    this.all = [
      ...(github === undefined ? [] : [new GithubProvider(github)]),
      ...(oidc === undefined ? [] : [new OidcProvider(oidc)]),
    ];
  }

  /** Throws `not_found`. */
  find(id: string): Provider {
    const provider = this.all.find((candidate) => candidate.id === id);
    if (provider !== undefined) return provider;
    throw new TorporError('not_found', `Users cannot log in with ${id} here.`, {
      remedy: 'GET /v1/auth/providers lists what they can log in with.',
    });
  }
}
