import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FileJournal } from './file-journal.ts';
import type { HostResource, JournalEntry } from './journal.ts';

let directory: string;
let path: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-journal-'));
  path = join(directory, 'resources.jsonl');
});
afterEach(() => rm(directory, { recursive: true }));

const slot = (index: number): HostResource => ({ kind: 'network-slot', index });
const file = (name: string): HostResource => ({ kind: 'file', path: `/x/${name}` });

async function reopened(): Promise<readonly JournalEntry[]> {
  await using journal = await FileJournal.open(path);
  return journal.entries();
}

describe('the resource journal', () => {
  test('resources that were recorded and not forgotten are there after a restart', async () => {
    {
      await using journal = await FileJournal.open(path);
      await journal.record('a', slot(1));
      await journal.record('a', { kind: 'process', pid: 12, startTimeTicks: '99' });
      await journal.record('b', { kind: 'directory', path: '/run/b' });
      await journal.forget(slot(1));
      await journal.forget(slot(7));
    }
    expect(await reopened()).toEqual([
      { owner: 'a', resource: { kind: 'process', pid: 12, startTimeTicks: '99' } },
      { owner: 'b', resource: { kind: 'directory', path: '/run/b' } },
    ]);
  });

  test('recording a resource again changes its owner', async () => {
    {
      await using journal = await FileJournal.open(path);
      await journal.record('pool', slot(1));
      await journal.record('sandbox', slot(1));
    }
    expect(await reopened()).toEqual([{ owner: 'sandbox', resource: slot(1) }]);
  });

  test('calls that overlap are applied in the order in which they were made', async () => {
    {
      await using journal = await FileJournal.open(path);
      await Promise.all([
        journal.record('a', slot(1)),
        journal.forget(slot(1)),
        journal.record('b', slot(1)),
        journal.record('c', slot(2)),
        journal.forget(slot(2)),
      ]);
    }
    expect(await reopened()).toEqual([{ owner: 'b', resource: slot(1) }]);
  });

  test('the file does not grow with the number of operations', async () => {
    await using journal = await FileJournal.open(path);
    for (let round = 0; round < 40; round++) {
      const names = Array.from({ length: 50 }, (_, n) => `${round}-${n}`);
      await Promise.all(names.map((name) => journal.record('a', file(name))));
      await Promise.all(names.map((name) => journal.forget(file(name))));
    }
    await journal.record('a', slot(3));
    expect((await readFile(path)).length).toBeLessThan(200_000);
    expect(await reopened()).toEqual([{ owner: 'a', resource: slot(3) }]);
  });

  test.each([
    ['another version', '{"format":"torpor-resource-journal","version":2}\n'],
    ['another format', 'hello\n'],
    ['an empty file', ''],
  ])('%s is refused', async (_, content) => {
    await writeFile(path, content);
    await expect(FileJournal.open(path)).rejects.toMatchObject({ code: 'host_setup' });
    expect(await readFile(path, 'utf8')).toBe(content);
  });

  test('a damaged line before the last is refused, not skipped', async () => {
    {
      await using journal = await FileJournal.open(path);
      await journal.record('a', slot(1));
      await journal.record('a', slot(2));
    }
    const lines = (await readFile(path, 'utf8')).split('\n');
    lines[1] = '[{"op":"record"';
    await writeFile(path, lines.join('\n'));
    await expect(FileJournal.open(path)).rejects.toMatchObject({ code: 'host_setup' });
  });

  test('a crash at any byte loses no acknowledged operation', async () => {
    const resource = fc.oneof(fc.nat(5).map(slot), fc.constantFrom('a', 'ä', 'c').map(file));
    const operation = fc.record({
      op: fc.constantFrom('record' as const, 'forget' as const),
      owner: fc.constantFrom('one', 'two'),
      resource,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { maxLength: 12 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        async (operations, fraction) => {
          await rm(path, { force: true });
          // After each acknowledgement: the length of the file, and its entries.
          const acknowledged: { size: number; entries: readonly JournalEntry[] }[] = [];
          {
            await using journal = await FileJournal.open(path);
            acknowledged.push({ size: (await readFile(path)).length, entries: [] });
            for (const { op, owner, resource } of operations) {
              if (op === 'record') await journal.record(owner, resource);
              else await journal.forget(resource);
              const { length } = await readFile(path);
              acknowledged.push({ size: length, entries: journal.entries() });
            }
          }
          const [first] = acknowledged;
          const last = acknowledged.at(-1);
          if (first === undefined || last === undefined) throw new Error('unreachable');
          const cut = first.size + Math.round(fraction * (last.size - first.size));
          await truncate(path, cut);
          const durable = acknowledged.findLast(({ size }) => size <= cut);
          expect(await reopened()).toEqual(durable?.entries);
          // And the journal can be written after the crash.
          {
            await using journal = await FileJournal.open(path);
            await journal.record('after', slot(99));
          }
          expect((await reopened()).at(-1)).toEqual({ owner: 'after', resource: slot(99) });
        },
      ),
      { numRuns: 60 },
    );
  });
});
