import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { computeKey, ensureArtifact, listArtifacts, removeArtifact } from './artifact-cache.ts';

let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'artifacts-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const KEY = computeKey({ test: 1 });

/** What is in the directory, without the lock file. */
async function contents(of = directory): Promise<string[]> {
  return (await readdir(of)).filter((name) => name !== '.lock').sort();
}

describe('computeKey', () => {
  test('does not depend on the order of names, at any depth', () => {
    expect(computeKey({ a: 1, b: { c: 2, d: 3 } })).toBe(computeKey({ b: { d: 3, c: 2 }, a: 1 }));
  });

  test('depends on every value and on the order of lists', () => {
    const keys = [{ a: 1 }, { a: 2 }, { a: '1' }, { b: 1 }, { a: [1, 2] }, { a: [2, 1] }];
    expect(new Set(keys.map(computeKey)).size).toBe(keys.length);
  });
});

describe('ensureArtifact', () => {
  test('builds once, then returns the existing one', async () => {
    let builds = 0;
    const request = {
      directory,
      key: KEY,
      build: async (staging: string) => {
        builds += 1;
        await mkdir(join(staging, 'sub'));
        await writeFile(join(staging, 'sub', 'file'), 'made');
      },
    };
    const paths = [await ensureArtifact(request), await ensureArtifact(request)];
    expect(paths).toEqual([join(directory, KEY), join(directory, KEY)]);
    expect(builds).toBe(1);
    expect(await readFile(join(directory, KEY, 'sub', 'file'), 'utf8')).toBe('made');
    expect(await contents()).toEqual([KEY]);
  });

  test('of two builders at once one builds, the other waits and reports it', async () => {
    let builds = 0;
    let waits = 0;
    const request = {
      directory,
      key: KEY,
      build: async (staging: string) => {
        builds += 1;
        await vi.waitUntil(() => waits > 0, { timeout: 10_000, interval: 1 });
        await writeFile(join(staging, 'file'), '');
      },
      onWait: () => {
        waits += 1;
      },
    };
    await Promise.all([ensureArtifact(request), ensureArtifact(request)]);
    expect([builds, waits]).toEqual([1, 1]);
  });

  test('a build that fails leaves nothing, and the next one succeeds', async () => {
    const failing = ensureArtifact({
      directory,
      key: KEY,
      build: async (staging) => {
        await writeFile(join(staging, 'half'), 'made');
        throw new TorporError('host_setup', 'No such tool.');
      },
    });
    await expect(failing).rejects.toMatchObject({ code: 'host_setup' });
    expect(await contents()).toEqual([]);
    await ensureArtifact({ directory, key: KEY, build: async () => undefined });
    expect(await contents()).toEqual([KEY]);
  });

  test('an aborted build leaves nothing', async () => {
    const controller = new AbortController();
    const reason = new TorporError('timeout', 'Too slow.');
    const aborted = ensureArtifact({
      directory,
      key: KEY,
      build: async () => controller.abort(reason),
      signal: controller.signal,
    });
    await expect(aborted).rejects.toBe(reason);
    expect(await contents()).toEqual([]);
  });

  test("a program that runs when the build is aborted is stopped, and the reason is the signal's", async () => {
    const controller = new AbortController();
    const reason = new TorporError('timeout', 'Too slow.');
    const aborted = ensureArtifact({
      directory,
      key: KEY,
      build: async (staging) => {
        const running = runCommand('sleep', ['600'], { cwd: staging, signal: controller.signal });
        controller.abort(reason);
        await running;
      },
      signal: controller.signal,
    });
    await expect(aborted).rejects.toBe(reason);
    expect(await contents()).toEqual([]);
  });

  test('what a builder that was killed left is removed by the next, and its lock is free', async () => {
    const script = `
      import { ensureArtifact } from ${JSON.stringify(new URL('./artifact-cache.ts', import.meta.url).href)};
      import { writeFile } from 'node:fs/promises';
      await ensureArtifact({ directory: process.argv[1], key: process.argv[2], build: async (staging) => {
        await writeFile(staging + '/half', 'made');
        console.log('building');
        setInterval(() => undefined, 1000);
        await new Promise(() => undefined);
      } });`;
    const builder = spawn(process.execPath, ['--input-type=module', '-e', script, directory, KEY], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await once(builder.stdout, 'data');
      expect((await contents())[0]).toMatch(/^\.staging-/);
    } finally {
      builder.kill('SIGKILL');
      await once(builder, 'exit');
    }
    await ensureArtifact({ directory, key: KEY, build: async () => undefined });
    expect(await contents()).toEqual([KEY]);
  });

  test('a full disk is reported as such, at any step, and leaves nothing', async () => {
    const small = join(directory, 'small');
    await mkdir(small);
    await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', small]);
    try {
      const writers = [
        (path: string) => writeFile(path, Buffer.alloc(4 << 20)),
        (path: string) => runCommand('dd', ['if=/dev/zero', `of=${path}`, 'bs=1M', 'count=4']),
      ];
      for (const write of writers) {
        const build = ensureArtifact({
          directory: small,
          key: KEY,
          build: async (staging) => void (await write(join(staging, 'large'))),
        });
        await expect(build).rejects.toMatchObject({ code: 'disk_full' });
        expect(await contents(small)).toEqual([]);
      }
    } finally {
      await runCommand('umount', [small]);
    }
  });
});

test('only keys are listed, and a removed artefact no longer exists', async () => {
  await ensureArtifact({ directory, key: KEY, build: async () => undefined });
  await mkdir(join(directory, '.staging-0123'));
  expect(await listArtifacts(directory)).toEqual([KEY]);
  await removeArtifact(directory, KEY);
  expect(await listArtifacts(directory)).toEqual([]);
  expect(await listArtifacts(join(directory, 'missing'))).toEqual([]);
});
