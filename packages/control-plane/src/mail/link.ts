/** Pages to which links with a secret lead (http/pages). */
export type LinkedPage = 'join' | 'password';

/** The token is behind the `#`, so that no server gets or logs it. */
export function pageLink(base: string, page: LinkedPage, token: string): string {
  return `${base.replace(/\/$/, '')}/${page}#${token}`;
}
