import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { newBuildId, ZERO_BUILD } from '../uuid.ts';
import {
  applyChanges,
  BlockChange,
  type ChangeMap,
  type Mapping,
  MappingBuilder,
  ZERO_INDEX,
  zeroMapping,
} from './mapping.ts';

/** How many random histories are tried; a campaign raises it. */
const CASES = Number(process.env.TORPOR_PROPERTY_CASES ?? 100_000);

/** A naive machine: the content of each block of RAM, and what each build stored. */
interface Model {
  ram: number[];
  readonly stored: Map<string, number[]>;
}

/** A change map: one of the three values of {@link BlockChange} per block. */
const changesOf = (blocks: number) =>
  fc.uint8Array({ min: 0, max: 2, minLength: blocks, maxLength: blocks });
const history = fc
  .integer({ min: 1, max: 40 })
  .chain((blocks) => fc.array(changesOf(blocks), { minLength: 1, maxLength: 6 }));

function commit(model: Model, parent: Mapping, changes: ChangeMap, seed: number): Mapping {
  const buildId = newBuildId();
  const diff: number[] = [];
  model.ram = model.ram.map((old, block) => {
    if (changes[block] === BlockChange.zero) return 0;
    if (changes[block] !== BlockChange.data) return old;
    const value = seed * 1000 + block + 1;
    diff.push(value);
    return value;
  });
  model.stored.set(buildId, diff);
  return applyChanges(parent, buildId, changes);
}

function read(model: Model, mapping: Mapping, block: number): number | undefined {
  const run = mapping.find(block);
  const build = mapping.buildOf(run);
  if (build === ZERO_INDEX) return 0;
  const diff = model.stored.get(mapping.builds[build] ?? '');
  return diff?.[mapping.storageOf(run) + block - mapping.startOf(run)];
}

/** Plain comparisons: an `expect` for each run of 10⁵ cases would be most of the time. */
function expectWellFormed(mapping: Mapping, blocks: number): void {
  let end = 0;
  let before: { buildId: string; storage: number; length: number } | undefined;
  for (const run of mapping.runs()) {
    if (run.start !== end || run.length <= 0) expect.fail(`a gap or overlap at block ${end}`);
    const joinable =
      before !== undefined &&
      before.buildId === run.buildId &&
      (run.buildId === ZERO_BUILD || before.storage + before.length === run.storage);
    if (joinable) expect.fail(`the runs before and after block ${end} are one`);
    before = run;
    end += run.length;
  }
  if (end !== blocks) expect.fail(`the mapping ends at block ${end} of ${blocks}`);
}

describe('a chain of generations', () => {
  test('reads back as the bytes of a naive machine, at every depth', () => {
    fc.assert(
      fc.property(history, (generations) => {
        const blocks = generations[0]?.length ?? 0;
        const model: Model = { ram: new Array(blocks).fill(0), stored: new Map() };
        let mapping = zeroMapping(blocks);
        generations.forEach((changes, index) => {
          mapping = commit(model, mapping, changes, index + 1);
        });
        expectWellFormed(mapping, blocks);
        for (let block = 0; block < blocks; block++) {
          if (read(model, mapping, block) !== model.ram[block]) {
            expect(read(model, mapping, block)).toBe(model.ram[block]);
          }
        }
      }),
      { numRuns: CASES },
    );
  });

  test("a block changed to zero is zero, not the parent's content", () => {
    const parent = new MappingBuilder().append(4, newBuildId(), 0).build();
    const child = applyChanges(parent, newBuildId(), Uint8Array.of(0, BlockChange.zero, 0, 0));
    expect(child.buildOf(child.find(1))).toBe(ZERO_INDEX);
    expect(child.storageOf(child.find(2))).toBe(2);
  });

  test('pieces of one build that are neighbours in RAM but not in its file stay apart', () => {
    const build = newBuildId();
    const mapping = new MappingBuilder().append(2, build, 0).append(2, build, 5).build();
    expect([...mapping.runs()].map((run) => run.storage)).toEqual([0, 5]);
  });

  test('changes of another size than the parent are refused', () => {
    expect(() => applyChanges(zeroMapping(4), newBuildId(), new Uint8Array(3))).toThrow(RangeError);
  });

  test('a block outside of RAM is refused', () => {
    for (const block of [-1, 4, 2 ** 33, Number.NaN]) {
      expect(() => zeroMapping(4).find(block)).toThrow(RangeError);
    }
  });
});
