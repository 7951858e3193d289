import { z } from 'zod';

/**
 * The pager's control protocol: one JSON object per line over a Unix socket that only its owner
 * can open. A request has an `id`, and its response repeats it; events have none, and are sent
 * to every client.
 *
 * Version 2 calls the event of a VM's release `released`; version 1 called it `ended`.
 */
export const PAGER_PROTOCOL_VERSION = 2;

/**
 * Versions that a client understands. A pager outlives the agent that started it, so an agent of a
 * newer release meets one of an older.
 */
export const UNDERSTOOD_VERSIONS: ReadonlySet<number> = new Set([1, PAGER_PROTOCOL_VERSION]);

export const MAX_LINE_BYTES = 4 * 1024 * 1024;

const vm = z.string().regex(/^[A-Za-z0-9-]{1,64}$/);
const path = z.string().startsWith('/').max(4096);

export const pagerRequestSchema = z.discriminatedUnion('op', [
  z.strictObject({ id: z.int(), op: z.literal('hello') }),
  z.strictObject({
    id: z.int(),
    op: z.literal('serve'),
    vm,
    socketPath: path,
    headerPath: path,
    diffPaths: z.record(z.string(), path),
    /** Pairs of first block and count. */
    workingSet: z
      .array(
        z
          .int()
          .min(0)
          .max(2 ** 32 - 1),
      )
      .max(2 ** 20)
      .optional(),
    connectTimeoutMs: z
      .int()
      .min(1)
      .max(24 * 3_600_000),
  }),
  z.strictObject({ id: z.int(), op: z.literal('materialise'), vm }),
  z.strictObject({ id: z.int(), op: z.literal('describe'), vm }),
  z.strictObject({ id: z.int(), op: z.literal('stop'), vm }),
  z.strictObject({ id: z.int(), op: z.literal('shutdown') }),
]);

export type PagerRequest = z.infer<typeof pagerRequestSchema>;

const statisticsSchema = z.strictObject({
  faults: z.int(),
  faultBytes: z.int(),
  prefetchBytes: z.int(),
  prefetchLate: z.int(),
  zeroPages: z.int(),
  removedPages: z.int(),
  latency: z.array(z.int()).readonly(),
});

/** `waiting` for the VMM to connect, `serving` it, or `failed`: it was killed, for `reason`. */
const vmStatusSchema = z.strictObject({
  vm,
  state: z.enum(['waiting', 'serving', 'failed']),
  pid: z.int().optional(),
  reason: z.string().optional(),
});
export type ServedVmStatus = z.infer<typeof vmStatusSchema>;

export const helloSchema = z.strictObject({
  protocolVersion: z.int(),
  pid: z.int(),
  vms: z.array(vmStatusSchema),
});
export type PagerHello = z.infer<typeof helloSchema>;

export const descriptionSchema = z.strictObject({
  statistics: statisticsSchema,
  workingSet: z.array(z.int()),
});
export type VmDescription = z.infer<typeof descriptionSchema>;

export const pagerEventSchema = z.discriminatedUnion('event', [
  z.strictObject({ event: z.literal('connected'), vm, pid: z.int() }),
  z.strictObject({ event: z.literal('materialised'), vm }),
  // `ended` is what pagers of version 1 send.
  z
    .strictObject({ event: z.literal(['released', 'ended']), vm })
    .transform(({ vm }) => ({ event: 'released' as const, vm })),
  z.strictObject({ event: z.literal('failed'), vm, reason: z.string() }),
]);
export type PagerEvent = z.infer<typeof pagerEventSchema>;

export const pagerResponseSchema = z.union([
  z.strictObject({ id: z.int(), result: z.unknown() }),
  z.strictObject({ id: z.int(), error: z.string() }),
]);
