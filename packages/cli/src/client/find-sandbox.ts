import type { Sandbox, Torpor } from '@torpor/sdk';
import { isId, TorporError } from '@torpor/sdk/basics';

/** The prefix of every id. */
const ID_TYPE = 'sb';
const MAX_LISTED = 5;

/**
 * The sandbox with this id, or the only one whose id has this prefix (except destroyed ones).
 * Throws `invalid_request` for an empty id, `not_found`, and `conflict` if several ids match.
 */
export async function findSandbox(torpor: Torpor, reference: string): Promise<Sandbox> {
  if (reference === '') {
    throw new TorporError('invalid_request', 'The sandbox id is empty.', {
      remedy:
        '`torpor ls` lists the sandboxes. The shell variable that should hold the id may be unset.',
    });
  }
  if (ID_TYPE.startsWith(reference)) {
    throw new TorporError('invalid_request', `Every sandbox id begins with ${reference}.`, {
      remedy: 'Give more characters of the id; `torpor ls` lists the sandboxes.',
    });
  }
  const isPrefix = /^sb[a-z0-9]+$/.test(reference);
  if (isId('sandbox', reference) || !isPrefix) return torpor.sandboxes.get(reference);
  const all = await Array.fromAsync(torpor.sandboxes.list());
  const matching = all.filter(({ id }) => id.startsWith(reference));
  const [only] = matching;
  if (only === undefined) return torpor.sandboxes.get(reference);
  if (matching.length === 1) return only;
  const ids = matching.slice(0, MAX_LISTED).map(({ id }) => id);
  const more = matching.length > MAX_LISTED ? ', …' : '';
  throw new TorporError(
    'conflict',
    `${matching.length} sandboxes have an id that begins with ${reference}: ${ids.join(', ')}${more}.`,
    { remedy: 'Give more characters of the id.' },
  );
}
