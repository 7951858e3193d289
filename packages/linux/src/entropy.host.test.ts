import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { setSystemClock } from './clock.ts';
import { withCredentials } from './credentials.ts';
import { addEntropy } from './entropy.ts';
import { SystemError } from './libc.ts';

const isRoot = process.getuid?.() === 0;
const NOBODY = { uid: 65534, gid: 65534, groups: [] };

/** Runs a module of this package in a process with its own host name. */
function inOwnUtsNamespace(script: string): string {
  const { stdout, stderr } = spawnSync(
    'unshare',
    ['--uts', process.execPath, '--input-type=module', '-e', script],
    { cwd: import.meta.dirname, encoding: 'utf8' },
  );
  return stdout + stderr;
}

describe.runIf(isRoot)('what makes a restored guest distinct', () => {
  let device: number;
  beforeAll(() => {
    device = openSync('/dev/urandom', 'r');
  });
  afterAll(() => closeSync(device));

  it('feeds the random generator of the kernel', () => {
    expect(() => addEntropy(randomBytes(64), device)).not.toThrow();
  });

  it('names the call that the kernel refused', () => {
    // The action runs without root's effective capabilities.
    expect(() => withCredentials(NOBODY, () => addEntropy(randomBytes(64), device))).toThrow(
      expect.objectContaining({ code: 'EPERM', syscall: 'ioctl RNDADDENTROPY' }),
    );
    expect(() => withCredentials(NOBODY, () => setSystemClock(Date.now()))).toThrow(SystemError);
  });

  it('sets the host name', () => {
    const printed = inOwnUtsNamespace(
      `import { setHostname } from './hostname.ts';
       setHostname('renamed');
       console.log((await import('node:os')).hostname());`,
    );
    expect(printed).toBe('renamed\n');
  });
});
