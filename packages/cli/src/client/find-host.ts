import type { Host, Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';

/** The prefix of every id: a shorter reference says nothing. */
const ID_TYPE = 'ho';

/**
 * The host with this id or name, or the only one whose id has this prefix. Throws `not_found`,
 * and `conflict` if several match.
 */
export async function findHost(torpor: Torpor, reference: string): Promise<Host> {
  const hosts = await torpor.hosts.list();
  const exact = hosts.find(({ id }) => id === reference);
  if (exact !== undefined) return exact;
  const named = hosts.filter(({ name }) => name === reference);
  const matching = named.length > 0 ? named : hosts.filter(({ id }) => isPrefix(reference, id));
  const [found, ...others] = matching;
  if (found === undefined) {
    throw new TorporError('not_found', `There is no host ${JSON.stringify(reference)}.`);
  }
  if (others.length === 0) return found;
  const ids = matching.map(({ id }) => id).join(', ');
  throw new TorporError('conflict', `Several hosts are called ${reference}: ${ids}.`, {
    remedy: 'Give the id.',
  });
}

function isPrefix(reference: string, id: string): boolean {
  return reference.length > ID_TYPE.length && id.startsWith(reference);
}

/** As {@link findHost}, each host once. Throws before anything is done if one is not found. */
export async function findHosts(torpor: Torpor, references: readonly string[]): Promise<Host[]> {
  const found = new Map<string, Host>();
  for (const reference of references) {
    const host = await findHost(torpor, reference);
    found.set(host.id, host);
  }
  return [...found.values()];
}
