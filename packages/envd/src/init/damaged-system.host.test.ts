import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

/*
 * Damage that programs can do to /etc before their sandbox is paused, resumed and copied. Real
 * file systems, in a mount namespace of their own.
 */

const NAMES = ['hostname', 'hosts', 'machine-id', 'resolv.conf'] as const;
type Name = (typeof NAMES)[number];
type Reading = Readonly<Record<Name, string | null>>;

interface Outcome {
  /** The errors of `/init` for the same sandbox, and for a copy of it. */
  readonly resume: string | null;
  readonly copy: string | null;
  readonly secondCopy: string | null;
  readonly before: Reading;
  readonly afterResume: Reading;
  readonly afterCopy: Reading;
  readonly afterSecondCopy: Reading;
  readonly left: readonly string[];
}

/** Each is run by a shell in the parent of `etc`, which is a tmpfs of its own. */
const DAMAGES = {
  nothing: 'true',
  'a full disk': 'dd if=/dev/zero of=filler bs=4096 2>/dev/null; ! echo x > etc/more 2>/dev/null',
  'no inodes left': 'i=0; while touch filler$i 2>/dev/null; do i=$((i + 1)); done',
  'a read-only disk': 'mount -o remount,ro .',
  'an immutable directory': 'chattr +i etc',
  'immutable files': 'chattr +i etc/*',
  'mounts over the files':
    'for name in etc/*; do echo mine > other; cp other $name.mine; mount --bind $name.mine $name; done',
  'dangling links': 'for name in etc/*; do ln -sf /nowhere $name; done',
  'links in a circle': 'for name in etc/*; do ln -sf $(basename $name) $name; done',
  'named pipes': 'for name in etc/*; do rm $name; mkfifo $name; done',
  'no files': 'rm etc/*',
  'directories in the place of the files':
    'for name in etc/*; do rm $name; mkdir -p $name/full; done',
  'no /etc': 'rm -r etc',
  'a file in the place of /etc': 'rm -r etc; echo x > etc',
  'a link in a circle in the place of /etc': 'rm -r etc; ln -s etc etc',
  'a directory in the place of the staged file':
    'for name in etc/*; do mkdir -p $name.torpor-new/full; done',
} as const;

const SCRIPT = `
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GuestSystem } from './guest-system.ts';
console.error = () => undefined;
const [base, damages] = [process.argv[1], JSON.parse(process.argv[2])];
const kernel = { setClock() {}, addEntropy() {}, setHostname() {} };
const outcomes = {};
let number = 0;
for (const [name, command] of Object.entries(damages)) {
  const disk = join(base, 'disk' + number++);
  const etc = join(disk, 'etc');
  mkdirSync(disk);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k,nr_inodes=40', 'tmpfs', disk]);
  mkdirSync(etc);
  writeFileSync(join(etc, 'hosts'), '127.0.0.1 localhost\\n10.0.0.1 mine\\n');
  const system = new GuestSystem({ etc, kernel });
  const apply = (hostname, digit, nameserver) => {
    try {
      system.apply({ hostname, machineId: digit.repeat(32), nameservers: [nameserver] });
      return null;
    } catch (error) {
      return error.message;
    }
  };
  const text = (file) => {
    try {
      const path = join(etc, file);
      return statSync(path).isFile() ? readFileSync(path, 'utf8') : null;
    } catch {
      return null;
    }
  };
  const read = () => Object.fromEntries(${JSON.stringify(NAMES)}.map((file) => [file, text(file)]));
  apply('original', 'a', '1.1.1.1');
  execFileSync('sh', ['-c', command], { cwd: disk });
  const before = read();
  const resume = apply('original', 'a', '1.1.1.1');
  const afterResume = read();
  const copy = apply('copy', 'b', '2.2.2.2');
  const afterCopy = read();
  const secondCopy = apply('second-copy', 'c', '3.3.3.3');
  const afterSecondCopy = read();
  const left = readFileSync('/proc/self/mountinfo', 'utf8').split('\\n')
    .filter((line) => line.split(' ')[4] === '/').slice(1);
  outcomes[name] = { resume, copy, secondCopy, before, afterResume, afterCopy, afterSecondCopy, left };
}
console.log(JSON.stringify(outcomes));
`;

/** Where the files can be written, or at least be mounted over: they have the identity of the copy. */
const CHANGEABLE = [
  ...['nothing', 'a full disk', 'no inodes left', 'a read-only disk', 'an immutable directory'],
  ...['immutable files', 'mounts over the files', 'dangling links', 'links in a circle'],
  ...['named pipes', 'no files', 'a directory in the place of the staged file'],
] as const;
/** Where there are no files to change: then none has the identity of the original either. */
const UNCHANGEABLE = [
  ...['directories in the place of the files', 'no /etc', 'a file in the place of /etc'],
  'a link in a circle in the place of /etc',
] as const;

describe.runIf(process.getuid?.() === 0)('/init where /etc is damaged', () => {
  let base: string;
  let outcomes: Record<keyof typeof DAMAGES, Outcome>;

  beforeAll(() => {
    base = mkdtempSync(join(tmpdir(), 'torpor-damaged-'));
    const node = [process.execPath, '--input-type=module', '-e', SCRIPT];
    const { stdout, stderr } = spawnSync(
      'unshare',
      ['--mount', '--propagation', 'private', ...node, base, JSON.stringify(DAMAGES)],
      { cwd: import.meta.dirname, encoding: 'utf8', timeout: 100_000 },
    );
    if (stdout === '') throw new Error(stderr);
    outcomes = JSON.parse(stdout);
  }, 120_000);

  afterAll(() => {
    rmSync(base, { recursive: true, force: true });
  });

  it('covers all kinds of damage', () => {
    expect([...CHANGEABLE, ...UNCHANGEABLE].toSorted()).toEqual(Object.keys(DAMAGES).toSorted());
  });

  it.each(Object.keys(DAMAGES) as (keyof typeof DAMAGES)[])(
    'lets the same sandbox be resumed with %s, and does not touch its files',
    (damage) => {
      const { resume, before, afterResume, left } = outcomes[damage];
      expect(resume).toBeNull();
      expect(afterResume).toEqual(before);
      expect(left).toEqual([]);
    },
  );

  it.each(CHANGEABLE)('gives copies with %s an identity of their own', (damage) => {
    const { copy, secondCopy, afterCopy, afterSecondCopy } = outcomes[damage];
    expect([copy, secondCopy]).toEqual([null, null]);
    expect(afterCopy).toMatchObject({
      hostname: 'copy\n',
      'machine-id': `${'b'.repeat(32)}\n`,
      'resolv.conf': 'nameserver 2.2.2.2\n',
    });
    expect(afterSecondCopy).toMatchObject({
      hostname: 'second-copy\n',
      'machine-id': `${'c'.repeat(32)}\n`,
      'resolv.conf': 'nameserver 3.3.3.3\n',
    });
    const ours = afterSecondCopy.hosts?.match(/^127\.0\.1\.1\t.*$/gm);
    expect(ours).toEqual(['127.0.1.1\tsecond-copy\t# torpor: this sandbox']);
  });

  it.each(UNCHANGEABLE)('initialises copies with %s all the same', (damage) => {
    const { copy, secondCopy, afterSecondCopy } = outcomes[damage];
    expect([copy, secondCopy]).toEqual([null, null]);
    expect(Object.values(afterSecondCopy).filter((text) => text !== null)).toEqual([]);
  });
});
