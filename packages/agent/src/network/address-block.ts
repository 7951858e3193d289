import { readFile } from 'node:fs/promises';
import { CommandError, ignoreMissing, ipBatch, ipJson, writeFileAtomically } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import { entriesOf } from './entries.ts';
import {
  formatIpv4Prefix,
  type Ipv4Prefix,
  parseIpv4Prefix,
  prefixesOverlap,
  prefixSize,
} from './ipv4.ts';

/**
 * Each instance owns a block of the address range. An `unreachable` route for the block in the
 * host's routing table is the claim: the kernel adds a prefix only once, so that two instances
 * that start at the same moment cannot both have it, and packets to a slot that does not exist
 * are dropped instead of sent to the default gateway. The state file has the block, so that
 * running slots keep their addresses when the agent restarts.
 *
 * The file is written before the claim (`claimedInBoot: null`) and after it. A crash in between
 * can leave a route that is not removed before the next boot; it can never make one instance
 * take the block of another. Routes do not survive a boot, so a claim of an earlier boot is
 * void.
 */

const stateSchema = z.strictObject({
  version: z.literal(1),
  block: z.string(),
  /** Identifies the boot of the machine in which the route was added. */
  claimedInBoot: z.string().nullable(),
});

const routeSchema = z.looseObject({ dst: z.string() });
const linkSchema = z.looseObject({ addr_info: z.array(z.looseObject({})) });
const addressSchema = z.looseObject({
  family: z.literal('inet'),
  local: z.string(),
  prefixlen: z.number(),
});

export interface AddressBlockOptions {
  /** The state file; its directory exists. */
  readonly stateFile: string;
  readonly addressRange: Ipv4Prefix;
  /** Two addresses for each. */
  readonly maxSlots: number;
  /** Never moves to another block, because slots with addresses of the old one exist. */
  readonly keep: boolean;
  readonly hostNamespace: string | undefined;
}

/**
 * Claims the block of this instance: the one in the state file, or one that overlaps no address
 * and no route of the machine. Throws `host_setup` if there is none.
 */
export async function claimAddressBlock(options: AddressBlockOptions): Promise<Ipv4Prefix> {
  const length = 32 - Math.max(1, Math.ceil(Math.log2(2 * options.maxSlots)));
  if (length < options.addressRange.length) {
    throw new TorporError(
      'host_setup',
      `${options.maxSlots} network slots need a /${length}; the address range ${formatIpv4Prefix(options.addressRange)} is smaller.`,
    );
  }
  const remembered = await readState(options.stateFile);
  if (remembered?.claimed === true) {
    if (options.keep) {
      await addClaim(remembered.block, options.hostNamespace);
      return remembered.block;
    }
    await releaseClaim(remembered.block, options.hostNamespace);
  }
  const free = await freeBlocks(options, length);
  for (const block of preferring(free.blocks, remembered?.block)) {
    await writeState(options.stateFile, block, false);
    if (!(await addClaim(block, options.hostNamespace))) continue;
    // An instance with blocks of another size may have claimed a part of it meanwhile.
    const used = await usedPrefixes(options.hostNamespace);
    if (used.filter((prefix) => free.inTheWay(prefix, block)).length > 1) {
      await releaseClaim(block, options.hostNamespace);
      continue;
    }
    await writeState(options.stateFile, block, true);
    return block;
  }
  throw new TorporError(
    'host_setup',
    `No /${length} of the address range ${formatIpv4Prefix(options.addressRange)} is free on this machine.`,
    {
      remedy:
        'Remove routes and interface addresses within that range that are not needed; `ip route` and `ip address` list them.',
    },
  );
}

/** Releases the claim on the block in the state file, if any; the file is kept. */
export async function releaseAddressBlock(
  stateFile: string,
  hostNamespace: string | undefined,
): Promise<void> {
  const state = await readState(stateFile);
  if (state?.claimed !== true) return;
  await releaseClaim(state.block, hostNamespace);
  await writeState(stateFile, state.block, false);
}

function preferring(
  blocks: readonly Ipv4Prefix[],
  preferred: Ipv4Prefix | undefined,
): Ipv4Prefix[] {
  const isPreferred = (block: Ipv4Prefix) =>
    block.base === preferred?.base && block.length === preferred.length;
  return [...blocks.filter(isPreferred), ...blocks.filter((block) => !isPreferred(block))];
}

interface FreeBlocks {
  readonly blocks: readonly Ipv4Prefix[];
  /** Whether a use of this prefix conflicts with the block. */
  inTheWay(prefix: Ipv4Prefix, block: Ipv4Prefix): boolean;
}

/**
 * The blocks that are unused on this machine. If routes as wide as the whole range (a VPN's
 * 10.0.0.0/8) leave none, such routes are ignored.
 */
async function freeBlocks(options: AddressBlockOptions, length: number): Promise<FreeBlocks> {
  const { addressRange } = options;
  const used = await usedPrefixes(options.hostNamespace);
  const size = 2 ** (32 - length);
  const all = Array.from({ length: prefixSize(addressRange) / size }, (_, position) => ({
    base: addressRange.base + position * size,
    length,
  }));
  const choose = (inTheWay: FreeBlocks['inTheWay']): FreeBlocks => ({
    blocks: all.filter((block) => !used.some((prefix) => inTheWay(prefix, block))),
    inTheWay,
  });
  const untouched = choose(prefixesOverlap);
  if (untouched.blocks.length > 0) return untouched;
  return choose(
    (prefix, block) => prefix.length > addressRange.length && prefixesOverlap(prefix, block),
  );
}

async function usedPrefixes(namespace: string | undefined): Promise<Ipv4Prefix[]> {
  const routes = entriesOf(
    routeSchema,
    await ipJson(['-4', 'route', 'show', 'table', 'all'], { namespace }),
  );
  const links = entriesOf(linkSchema, await ipJson(['-4', 'addr', 'show'], { namespace }));
  const addresses = entriesOf(
    addressSchema,
    links.flatMap((link) => link.addr_info),
  ).map((address) => `${address.local}/${address.prefixlen}`);
  const destinations = routes.map((route) => route.dst).filter((dst) => dst !== 'default');
  return [...destinations, ...addresses].map(parseIpv4Prefix);
}

function claimRoute(block: Ipv4Prefix): string {
  return `unreachable ${formatIpv4Prefix(block)}`;
}

/** Whether the route was added; false if it exists already. */
async function addClaim(block: Ipv4Prefix, namespace: string | undefined): Promise<boolean> {
  try {
    await ipBatch([`route add ${claimRoute(block)}`], { namespace });
    return true;
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('File exists')) return false;
    throw error;
  }
}

async function releaseClaim(block: Ipv4Prefix, namespace: string | undefined): Promise<void> {
  try {
    await ipBatch([`route del ${claimRoute(block)}`], { namespace });
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('No such process')) return;
    throw error;
  }
}

interface BlockState {
  readonly block: Ipv4Prefix;
  readonly claimed: boolean;
}

async function readState(path: string): Promise<BlockState | undefined> {
  const text = await readFile(path, 'utf8').catch(ignoreMissing);
  if (text === undefined) return undefined;
  const bootId = await currentBootId();
  try {
    const state = stateSchema.parse(JSON.parse(text));
    return { block: parseIpv4Prefix(state.block), claimed: state.claimedInBoot === bootId };
  } catch (error) {
    throw new TorporError('host_setup', `The file ${path} is damaged.`, {
      remedy: `Destroy all sandboxes of this data directory, then remove ${path}.`,
      cause: error,
    });
  }
}

async function writeState(path: string, block: Ipv4Prefix, claimed: boolean): Promise<void> {
  const state: z.infer<typeof stateSchema> = {
    version: 1,
    block: formatIpv4Prefix(block),
    claimedInBoot: claimed ? await currentBootId() : null,
  };
  await writeFileAtomically(path, `${JSON.stringify(state)}\n`);
}

async function currentBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}
