import { constants } from 'node:fs';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { ignoreMissing, writeFileAtomically } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import type { HostResource, JournalEntry, ResourceJournal } from './journal.ts';

/*
 * The journal is a file of JSON lines. The first line names format and version; every other
 * line is a list of operations that became durable with one fdatasync. Because a batch is one
 * line, a crash can only tear the last one, and a torn batch was never acknowledged: nothing
 * that it names has been made yet (record) or its resource no longer exists (forget), so
 * dropping it is safe. A damaged line that is followed by others cannot be due to a crash; such
 * a file is refused, since skipping the line could lose a resource.
 *
 * The file is rewritten (temporary file, fsync, rename) when it is opened and whenever most of
 * its operations are obsolete.
 */

const FORMAT = 'torpor-resource-journal';
const VERSION = 1;
const COMPACT_AFTER_DEAD_OPERATIONS = 1024;

const resourceSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('network-slot'), index: z.int().nonnegative() }),
  z.strictObject({
    kind: z.literal('process'),
    pid: z.int().positive(),
    startTimeTicks: z.string().regex(/^[0-9]+$/),
  }),
  z.strictObject({ kind: z.literal('file'), path: z.string().startsWith('/') }),
  z.strictObject({ kind: z.literal('directory'), path: z.string().startsWith('/') }),
]);

const operationSchema = z.discriminatedUnion('op', [
  z.strictObject({
    op: z.literal('record'),
    owner: z.string().min(1).max(128),
    resource: resourceSchema,
  }),
  z.strictObject({ op: z.literal('forget'), resource: resourceSchema }),
]);

const headerSchema = z.strictObject({ format: z.literal(FORMAT), version: z.int() });
const batchSchema = z.array(operationSchema);

type Operation = z.infer<typeof operationSchema>;

interface PendingOperation {
  readonly operation: Operation;
  readonly resolve: () => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * The {@link ResourceJournal} on disk. Calls may overlap; those that wait at the same time
 * share one fdatasync.
 */
export class FileJournal implements ResourceJournal, AsyncDisposable {
  readonly #path: string;
  readonly #live: Map<string, JournalEntry>;
  #file: FileHandle;
  #size: number;
  #operations: number;
  #torn = false;
  #closed = false;
  #queue: PendingOperation[] = [];
  #flushing: Promise<void> | undefined;

  /**
   * Opens the journal at `path`, in a directory that exists, or starts one. Throws
   * `host_setup` for a file of another version or a damaged one.
   */
  static async open(path: string): Promise<FileJournal> {
    const live = await readJournal(path);
    const { file, size } = await rewrite(path, live);
    return new FileJournal(path, live, file, size);
  }

  private constructor(
    path: string,
    live: Map<string, JournalEntry>,
    file: FileHandle,
    size: number,
  ) {
    this.#path = path;
    this.#live = live;
    this.#file = file;
    this.#size = size;
    this.#operations = live.size;
  }

  record(owner: string, resource: HostResource): Promise<void> {
    return this.#append({ op: 'record', owner, resource });
  }

  forget(resource: HostResource): Promise<void> {
    return this.#append({ op: 'forget', resource });
  }

  entries(): readonly JournalEntry[] {
    return [...this.#live.values()];
  }

  /** Waits for pending writes, then closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#flushing;
    await this.#file.close();
  }

  #append(operation: Operation): Promise<void> {
    if (this.#closed) {
      return Promise.reject(new TorporError('internal_error', 'The journal is closed.'));
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ operation: operationSchema.parse(operation), resolve, reject });
      this.#flushing ??= this.#flush();
    });
  }

  async #flush(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue;
      this.#queue = [];
      try {
        await this.#write(batch.map((pending) => pending.operation));
      } catch (error) {
        for (const pending of batch) pending.reject(error);
        continue;
      }
      for (const pending of batch) pending.resolve();
    }
    // In the same turn as the check above: a call made after it starts the next flush.
    this.#flushing = undefined;
  }

  async #write(operations: readonly Operation[]): Promise<void> {
    if (this.#torn) {
      await this.#file.truncate(this.#size);
      this.#torn = false;
    }
    const line = Buffer.from(`${JSON.stringify(operations)}\n`);
    this.#torn = true;
    for (let written = 0; written < line.length; ) {
      const { bytesWritten } = await this.#file.write(line, written, null, this.#size + written);
      written += bytesWritten;
    }
    await this.#file.datasync();
    this.#torn = false;
    this.#size += line.length;
    this.#operations += operations.length;
    for (const operation of operations) apply(this.#live, operation);
    if (this.#operations - this.#live.size > COMPACT_AFTER_DEAD_OPERATIONS) await this.#compact();
  }

  async #compact(): Promise<void> {
    const { file, size } = await rewrite(this.#path, this.#live);
    const old = this.#file;
    this.#file = file;
    this.#size = size;
    this.#operations = this.#live.size;
    await old.close();
  }
}

function keyOf(resource: HostResource): string {
  switch (resource.kind) {
    case 'network-slot':
      return `network-slot:${resource.index}`;
    case 'process':
      return `process:${resource.pid}:${resource.startTimeTicks}`;
    case 'file':
    case 'directory':
      return `${resource.kind}:${resource.path}`;
  }
}

function apply(live: Map<string, JournalEntry>, operation: Operation): void {
  const key = keyOf(operation.resource);
  if (operation.op === 'forget') {
    live.delete(key);
    return;
  }
  live.set(key, { owner: operation.owner, resource: operation.resource });
}

async function readJournal(path: string): Promise<Map<string, JournalEntry>> {
  const live = new Map<string, JournalEntry>();
  const text = await readFile(path, 'utf8').catch(ignoreMissing);
  if (text === undefined) return live;
  const [header, ...lines] = text.split('\n');
  checkHeader(path, header ?? '');
  // What follows the last newline is a torn batch, or nothing.
  lines.pop();
  for (const [index, line] of lines.entries()) {
    const batch = parseBatch(line);
    if (batch === undefined) {
      if (index === lines.length - 1) break;
      throw new TorporError('host_setup', `Line ${index + 2} of the journal ${path} is damaged.`, {
        remedy:
          'Restore the file, or remove it after taking down the namespaces, processes and files that its other lines name.',
      });
    }
    for (const operation of batch) apply(live, operation);
  }
  return live;
}

function checkHeader(path: string, line: string): void {
  const header = headerSchema.safeParse(parseJson(line));
  if (header.success && header.data.version === VERSION) return;
  const found = header.success ? `version ${header.data.version}` : 'not a journal of Torpor';
  throw new TorporError(
    'host_setup',
    `The file ${path} is ${found}; this host agent reads version ${VERSION}.`,
    { remedy: 'Use the release of Torpor that wrote it.' },
  );
}

function parseBatch(line: string): Operation[] | undefined {
  const batch = batchSchema.safeParse(parseJson(line));
  return batch.success ? batch.data : undefined;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function rewrite(
  path: string,
  live: ReadonlyMap<string, JournalEntry>,
): Promise<{ file: FileHandle; size: number }> {
  const operations = [...live.values()].map((entry) => ({ op: 'record', ...entry }));
  const lines = [JSON.stringify({ format: FORMAT, version: VERSION })];
  if (operations.length > 0) lines.push(JSON.stringify(operations));
  const content = Buffer.from(`${lines.join('\n')}\n`);
  await writeFileAtomically(path, content);
  const file = await open(path, constants.O_WRONLY);
  return { file, size: content.length };
}
