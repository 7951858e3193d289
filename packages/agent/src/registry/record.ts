import { readFile } from 'node:fs/promises';
import { ignoreMissing, writeFileAtomically } from '@torpor/linux';
import { SANDBOX_STATES, TorporError } from '@torpor/protocol';
import type { DirtyBase } from '@torpor/vmm';
import { z } from 'zod';
import type { RunningMachine } from '../machine/running-machine.ts';
import { type MachineDescription, machineDescriptionSchema } from './machine-schema.ts';
import { upgradeRecord } from './record-upgrade.ts';

/** Older ones are read too: see `record-upgrade.ts`. */
const FORMAT_VERSION = 2;

const dirtyBaseSchema: z.ZodType<DirtyBase> = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('zeros') }),
  z.strictObject({ kind: z.literal('build'), buildId: z.string(), number: z.int().min(0) }),
  z.strictObject({ kind: z.literal('unknown'), buildId: z.string().optional() }),
]);

const recordSchema = z.strictObject({
  formatVersion: z.literal(FORMAT_VERSION),
  id: z.string(),
  state: z.enum(SANDBOX_STATES),
  /** Why the sandbox is in state `error`. */
  reason: z.string().optional(),
  spec: z.strictObject({
    vcpus: z.int(),
    memoryMiB: z.int(),
    diskSizeMiB: z.int(),
    /** Seconds of inactivity after which the sandbox is destroyed; 0 means never. */
    timeoutSec: z.int(),
    teamId: z.string(),
    templateId: z.string(),
    /** The name by which the template was chosen; `templateId` if omitted. */
    templateName: z.string().optional(),
    /** The image's if omitted. */
    defaultUser: z.string().optional(),
    allowInternet: z.boolean(),
    /** At the end of its time to live the sandbox is paused, not destroyed. */
    autoPause: z.boolean(),
    hostname: z.string(),
    /** User-defined, stored for the control plane; early records have none. */
    labels: z.record(z.string(), z.string()).default({}),
  }),
  /** User and group id of the VMM. */
  uid: z.int(),
  /** Unix milliseconds. */
  createdAt: z.number(),
  lastActiveAt: z.number(),
  /** When it became `running` for the first time; early records have none. */
  startedAt: z.number().optional(),
  slot: z.strictObject({ index: z.int(), hostAddress: z.string() }).optional(),
  /** Index of the slot that it had before it was paused: it gets the same address back if possible. */
  lastSlotIndex: z.int().optional(),
  machine: machineDescriptionSchema.optional(),
  /** Of the running machine: see `RunningMachine`. */
  memory: z.strictObject({ base: dirtyBaseSchema, servedAs: z.string().optional() }).optional(),
  /** The last build of this sandbox itself: the one it is paused in, or can be resumed from. */
  buildId: z.string().optional(),
  /** The highest fence of the calls about it: see `Fences`. */
  fence: z.int().optional(),
  /** Versions of the software that runs it. */
  metadata: z.record(z.string(), z.string()),
});

/** The persistent state of a sandbox: `sandbox.json` in its directory. */
export type SandboxRecord = Readonly<z.infer<typeof recordSchema>>;
export type SandboxSpec = SandboxRecord['spec'];
export type { MachineDescription };

/** Changes that remove the machine from a record. */
export const NO_MACHINE = { machine: undefined, slot: undefined, memory: undefined } as const;

/** The memory of a sandbox's machine, for its record. */
export function memoryRecord({
  base,
  servedAs,
}: Pick<RunningMachine, 'base' | 'servedAs'>): SandboxRecord['memory'] {
  return { base, ...(servedAs === undefined ? {} : { servedAs }) };
}

export function newRecord(fields: Omit<SandboxRecord, 'formatVersion'>): SandboxRecord {
  return { formatVersion: FORMAT_VERSION, ...fields };
}

/** Durable when it resolves; a reader sees the old record or the new one. */
export async function writeRecord(path: string, record: SandboxRecord): Promise<void> {
  await writeFileAtomically(path, `${JSON.stringify(record, undefined, 2)}\n`);
}

/**
 * Reads a record; undefined if there is none. Throws `host_setup` for a file that
 * is damaged or of another version, without touching it.
 */
export async function readRecord(path: string): Promise<SandboxRecord | undefined> {
  const text = await readFile(path, 'utf8').catch(ignoreMissing);
  if (text === undefined) return undefined;
  try {
    return recordSchema.parse(upgradeRecord(JSON.parse(text)));
  } catch (error) {
    throw new TorporError(
      'host_setup',
      `The record ${path} is damaged or of another version of Torpor.`,
      {
        remedy: 'Use the release that wrote it, or remove the directory that it is in.',
        cause: error,
      },
    );
  }
}
