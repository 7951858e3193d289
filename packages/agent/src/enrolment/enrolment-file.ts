import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomically } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';

/** A host that has joined. */
const joinedSchema = z.strictObject({
  version: z.literal(1),
  /** Where the control plane listens for agents. */
  url: z.url(),
  host_id: z.string(),
  /** Certificates and key in PEM. */
  authority: z.string(),
  certificate: z.string(),
  private_key: z.string(),
  /** SHA-256 of the token that it joined with: given again, it changes nothing. */
  token_hash: z.string(),
});

/** The key of a host that is joining: its token is bound to the key once a request has arrived. */
const pendingSchema = joinedSchema.pick({ version: true, private_key: true, token_hash: true });

export type Enrolment = Readonly<z.infer<typeof joinedSchema>>;
export type PendingEnrolment = Readonly<z.infer<typeof pendingSchema>>;

const FILE_NAME = 'enrolment.json';
const PENDING_FILE_NAME = 'enrolment.pending.json';

/** Undefined if the host of this data directory has not joined. Throws `host_setup` for a damaged file. */
export function readEnrolment(dataDir: string): Promise<Enrolment | undefined> {
  return read(join(dataDir, FILE_NAME), joinedSchema);
}

/** Throws `host_setup` for a damaged file. */
export async function hasJoined(dataDir: string): Promise<boolean> {
  return (await readEnrolment(dataDir)) !== undefined;
}

/** Key and certificate change together: they are in one file, with mode 0600. */
export function writeEnrolment(dataDir: string, enrolment: Enrolment): Promise<void> {
  return writeFileAtomically(join(dataDir, FILE_NAME), `${JSON.stringify(enrolment, null, 2)}\n`);
}

export function readPending(dataDir: string): Promise<PendingEnrolment | undefined> {
  return read(join(dataDir, PENDING_FILE_NAME), pendingSchema);
}

export function writePending(dataDir: string, pending: PendingEnrolment): Promise<void> {
  return writeFileAtomically(join(dataDir, PENDING_FILE_NAME), `${JSON.stringify(pending)}\n`);
}

async function read<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw new TorporError('host_setup', `${path} cannot be read: it is damaged.`, {
      remedy: 'Restore it from a backup, or remove it and join the host with a new token.',
      cause: error,
    });
  }
}
