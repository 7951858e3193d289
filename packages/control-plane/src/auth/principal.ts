/** Who makes a request: the key, and the team that owns everything the key can see. */
export interface Principal {
  readonly teamId: string;
  readonly apiKeyId: string;
}
