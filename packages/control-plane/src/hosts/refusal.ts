/** Why no host can have a new sandbox. */
import { REMEDIES, TorporError } from '@torpor/protocol';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/schema.ts';
import { invalidFields } from '../validation/parse-with.ts';
import {
  hasDisk,
  hasOrigin,
  hasRoom,
  MIN_MEMORY_MB,
  type PlacementRequest,
} from './placement-request.ts';

interface Candidate {
  readonly id: string;
  readonly state: string;
  readonly draining: boolean;
  readonly has_origin: boolean;
  readonly has_tags: boolean;
  readonly has_room: boolean;
  readonly has_disk: boolean;
  readonly max_vcpus: number | null;
  readonly max_memory_mb: number | null;
  readonly memory_mb: number | null;
  readonly reserved_mb: string;
}

interface Circumstances {
  /** The ids of the hosts that respond. */
  readonly reachable: ReadonlySet<string>;
  readonly vcpuOvercommit: number | undefined;
}

interface Refusal {
  readonly error: TorporError;
  /** Whether a host has room now. */
  readonly mayFit: boolean;
}

/**
 * The first of these that is the reason: no host, the image or the build, whether the host that has it
 * can be used, the tags, the size, the room.
 */
export async function refusal(
  db: Kysely<Database>,
  request: PlacementRequest,
  circumstances: Circumstances,
): Promise<Refusal> {
  const all = await candidates(db, request, circumstances);
  const online = all.filter(({ state, draining }) => state === 'online' && !draining);
  const withOrigin = all.filter((host) => host.has_origin);
  if (request.origin.image !== undefined) {
    if (online.length === 0) return final(noneOnline());
    if (withOrigin.length === 0)
      return final(await unknownImage(db, request.teamId, request.origin.image));
  }
  const tagged = withOrigin.filter((host) => host.has_tags);
  const usable = tagged.filter((host) => online.includes(host));
  const responding = usable.filter(({ id }) => circumstances.reachable.has(id));
  if (responding.length === 0) {
    if (request.origin.snapshot !== undefined)
      return final(unusable(request.origin.snapshot.name, withOrigin));
    if (usable.length > 0) return final(noneResponds(usable));
    return final(tagged.length === 0 ? noTags(request.hostTags) : noneOnline());
  }
  const unsuited = tooLarge(request, responding);
  if (unsuited !== undefined) return final(unsuited);
  const suited = responding.filter((host) => allows(host, request));
  const mayFit = suited.some((host) => host.has_room);
  return { error: full(request, suited.length > 0 ? suited : responding), mayFit };
}

function allows(
  { max_vcpus, max_memory_mb }: Candidate,
  { vcpus, memoryMb }: PlacementRequest,
): boolean {
  return (max_vcpus ?? vcpus) >= vcpus && (max_memory_mb ?? memoryMb) >= memoryMb;
}

function final(error: TorporError): Refusal {
  return { error, mayFit: false };
}

async function candidates(
  db: Kysely<Database>,
  request: PlacementRequest,
  { vcpuOvercommit }: Circumstances,
): Promise<readonly Candidate[]> {
  const { teamId, hostTags, origin, memoryMb } = request;
  const { rows } = await sql<Candidate>`
    select hosts.id, state, draining, max_vcpus, max_memory_mb, hosts.memory_mb,
      usage.memory_mb as reserved_mb, ${hasOrigin(origin)} as has_origin,
      tags @> ${[...hostTags]}::text[] as has_tags,
      ${hasRoom(request, vcpuOvercommit)} as has_room, ${hasDisk(memoryMb)} as has_disk
    from hosts join host_usage as usage on usage.host_id = hosts.id
    where state <> 'pending' and (team_id is null or team_id = ${teamId})`.execute(db);
  return rows;
}

function noneOnline(): TorporError {
  return new TorporError('no_hosts_available', 'No host is online that takes new sandboxes.', {
    remedy: 'Start the agent of a host, stop draining one, or add one.',
  });
}

async function unknownImage(
  db: Kysely<Database>,
  teamId: string,
  name: string,
): Promise<TorporError> {
  const rows = await db
    .selectFrom('host_images')
    .innerJoin('hosts', 'hosts.id', 'host_images.host_id')
    .select('host_images.name')
    .distinct()
    .where(({ eb, or }) => or([eb('team_id', 'is', null), eb('team_id', '=', teamId)]))
    .orderBy('host_images.name')
    .limit(50)
    .execute();
  const known = rows.length === 0 ? 'none' : rows.map((row) => row.name).join(', ');
  return new TorporError(
    'not_found',
    `There is no template ${JSON.stringify(name)}. Images: ${known}.`,
    { remedy: REMEDIES.listOrMakeTemplates },
  );
}

/** Of a snapshot: its build is nowhere else. */
function unusable(name: string, hosts: readonly Candidate[]): TorporError {
  const ids = hosts.map(({ id }) => id).join(', ');
  if (hosts.length === 0) {
    return new TorporError('host_unavailable', `No host has the build of the snapshot ${name}.`, {
      remedy: 'Start the agent of the host that it was made on, or make the snapshot again.',
    });
  }
  const online = hosts.filter(({ state }) => state === 'online');
  if (online.length > 0 && online.every(({ draining }) => draining)) {
    return new TorporError(
      'no_hosts_available',
      `The snapshot ${name} is on the host ${ids}, which takes no new sandboxes: it is being drained.`,
      { remedy: 'Stop draining that host.' },
    );
  }
  if (online.some((host) => !host.draining && !host.has_tags)) {
    return new TorporError(
      'no_hosts_available',
      `The snapshot ${name} is on the host ${ids}, which does not have the tags that were asked for.`,
      { remedy: 'Ask for no tags, or add them to that host.' },
    );
  }
  return new TorporError(
    'host_unavailable',
    `The snapshot ${name} is on the host ${ids}, which does not respond.`,
    { remedy: 'Start the agent of that host.' },
  );
}

function noneResponds(hosts: readonly Candidate[]): TorporError {
  const ids = hosts.slice(0, 5).map(({ id }) => id);
  return new TorporError(
    'host_unavailable',
    `No host that could have the sandbox responds: ${ids.join(', ')}.`,
    { remedy: 'Start the agent of a host.' },
  );
}

function noTags(tags: readonly string[]): TorporError {
  return new TorporError(
    'no_hosts_available',
    `No host has the image and the tags that were asked for: ${tags.join(', ')}.`,
    { remedy: 'Ask for other tags, or add them to a host.' },
  );
}

/** Undefined if a host allows the size. */
function tooLarge(
  { vcpus, memoryMb }: PlacementRequest,
  hosts: readonly Candidate[],
): TorporError | undefined {
  const where = hosts.length === 1 ? 'this host' : 'any host';
  const maxVcpus = Math.max(...hosts.map(({ max_vcpus }) => max_vcpus ?? Number.POSITIVE_INFINITY));
  const maxMemoryMb = Math.max(
    ...hosts.map(({ max_memory_mb }) => max_memory_mb ?? Number.POSITIVE_INFINITY),
  );
  if (vcpus < 1 || vcpus > maxVcpus) {
    return invalidFields('request', [
      { field: 'vcpus', problem: `must be 1 to ${maxVcpus} on ${where}` },
    ]);
  }
  if (memoryMb < MIN_MEMORY_MB) {
    const problem = `must be ${MIN_MEMORY_MB} to ${maxMemoryMb} MiB on ${where}`;
    return invalidFields('request', [{ field: 'memoryMb', problem }]);
  }
  if (memoryMb <= maxMemoryMb) return undefined;
  return new TorporError(
    'capacity_exceeded',
    `A sandbox on ${where} can have at most ${maxMemoryMb} MiB of memory; ${memoryMb} MiB were requested.`,
  );
}

function full({ memoryMb, vcpus }: PlacementRequest, hosts: readonly Candidate[]): TorporError {
  const free = (host: Candidate) => (host.memory_mb ?? 0) - Number(host.reserved_mb);
  const best = hosts.reduce((one, other) => (free(other) > free(one) ? other : one));
  const freeMb = Math.max(free(best), 0);
  const count = hosts.length;
  if (freeMb >= memoryMb) {
    const problem = best.has_disk
      ? `room for a sandbox with ${vcpus} vCPUs and ${memoryMb} MiB of memory`
      : 'enough free disk for the sandbox';
    const which = count === 1 ? 'The host does' : `None of ${count} hosts does`;
    return new TorporError('no_hosts_available', `${which} not have ${problem} now.`);
  }
  const of = `${freeMb} of ${best.memory_mb ?? 0} MiB`;
  const figures =
    count === 1
      ? `${of} are not reserved for other sandboxes`
      : `of ${count} hosts, the one with most has ${of} that are not reserved for other sandboxes`;
  return new TorporError(
    'no_hosts_available',
    `No host has ${memoryMb} MiB of memory free for the sandbox: ${figures}.`,
  );
}
