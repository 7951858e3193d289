import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import {
  FileJournal,
  openSlotPool,
  type SlotPool,
  type SlotPoolOptions,
} from '@torpor/agent/testing';
import { pino } from 'pino';
import { removeInstance } from './network-instance.ts';

export interface TestPool extends AsyncDisposable {
  readonly pool: SlotPool;
  readonly instance: string;
  readonly journal: FileJournal;
  /** Abandons the pool as it is, as `kill -9` of an agent does. No operation may be in progress. */
  crash(): Promise<void>;
}

export interface TestPoolOptions extends Partial<SlotPoolOptions> {
  /** For the journal and the state file. */
  readonly directory: string;
  readonly hostNamespace: string;
}

/** An instance tag that no other test has. */
export function testInstance(): string {
  return randomBytes(3).toString('hex');
}

/** Opens a pool of real slots with its own instance tag. Disposing of it removes all of them. */
export async function openTestPool(options: TestPoolOptions): Promise<TestPool> {
  await using stack = new AsyncDisposableStack();
  const instance = options.instance ?? testInstance();
  const stateFile = join(options.directory, 'network.json');
  const journal = stack.use(await FileJournal.open(join(options.directory, 'resources.jsonl')));
  const { hostNamespace } = options;
  stack.defer(() => removeInstance({ instance, hostNamespace, stateFile }));
  const pool = await openSlotPool({
    poolSize: 0,
    logger: pino({ level: 'silent' }),
    ...options,
    instance,
    stateFile,
    journal,
  });
  let crashed = false;
  stack.defer(async () => {
    if (!crashed) await pool.close();
  });
  const resources = stack.move();
  return {
    pool,
    instance,
    journal,
    crash: async () => {
      crashed = true;
      await journal[Symbol.asyncDispose]();
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
