import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { withCredentials } from './credentials.ts';

const isRoot = process.getuid?.() === 0;
const NOBODY = { uid: 65534, gid: 65533, groups: [65533, 4242, 77] };

function threadsOfThisProcess(): string[] {
  return readdirSync('/proc/self/task').flatMap((thread) => {
    const status = readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
    return [...status.matchAll(/^(?:Uid|Gid|Groups|CapEff):.*$/gm)].map(([line]) => line);
  });
}

describe.runIf(isRoot)('withCredentials', () => {
  it("gives a child the account, its groups, and none of its parent's privileges", () => {
    const { stdout } = withCredentials(NOBODY, () => spawnSync('cat', ['/proc/self/status']));
    const status = stdout.toString();
    expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
    expect(status).toMatch(/^Gid:\t65533\t65533\t65533\t65533$/m);
    expect(status).toMatch(/^Groups:\t77 4242 65533 ?$/m);
    expect(status).toMatch(/^CapPrm:\t0+$/m);
    expect(status).toMatch(/^CapEff:\t0+$/m);
  });

  it('leaves every thread of this process as it was, also when the action fails', () => {
    const before = threadsOfThisProcess();
    expect(() =>
      withCredentials(NOBODY, () => {
        throw new Error('the action');
      }),
    ).toThrow('the action');
    expect(new Set(threadsOfThisProcess())).toEqual(new Set(before));
  });

  it('changes nothing about another thread meanwhile', () => {
    const other = readdirSync('/proc/self/task').find((thread) => Number(thread) !== process.pid);
    const status = withCredentials(NOBODY, () =>
      readFileSync(`/proc/${process.pid}/task/${other}/status`, 'utf8'),
    );
    expect(status).toMatch(/^Uid:\t0\t0\t0\t0$/m);
  });
});
