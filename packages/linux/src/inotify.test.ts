import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { IN, Inotify, type InotifyEvent } from './inotify.ts';

let directory: string;
let events: InotifyEvent[];
let inotify: Inotify;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-inotify-'));
  events = [];
  inotify = new Inotify((some) => events.push(...some));
});

afterEach(async () => {
  inotify[Symbol.dispose]();
  await rm(directory, { recursive: true, force: true });
});

it('delivers events by itself, with names of any length and script', async () => {
  const names = ['a', 'dvanáct znaků', '日本語', 'x'.repeat(255)];
  const watch = inotify.add(directory, IN.CREATE);
  for (const name of names) await writeFile(join(directory, name), '');
  const deadline = Date.now() + 10_000;
  while (events.length < names.length && Date.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 1));
  expect(events).toEqual(names.map((name) => ({ watch, name, mask: IN.CREATE, cookie: 0 })));
});

it('joins the halves of a rename, and marks directories', async () => {
  await mkdir(join(directory, 'old'));
  inotify.add(directory, IN.MOVED_FROM | IN.MOVED_TO);
  await rename(join(directory, 'old'), join(directory, 'new'));
  inotify.drain();
  const [from, to] = events;
  expect(from).toMatchObject({ name: 'old', mask: IN.MOVED_FROM | IN.ISDIR });
  expect(to).toMatchObject({ name: 'new', mask: (IN.MOVED_TO | IN.ISDIR) >>> 0 });
  expect(from?.cookie).toBe(to?.cookie);
  expect(from?.cookie).not.toBe(0);
});

it('gives one inode one watch, and removes it', async () => {
  const watch = inotify.add(directory, IN.CREATE);
  expect(inotify.add(join(directory, '.'), IN.CREATE)).toBe(watch);
  inotify.remove(watch);
  inotify.remove(watch);
  await writeFile(join(directory, 'unseen'), '');
  inotify.drain();
  expect(events.map((event) => event.mask)).toEqual([IN.IGNORED]);
});

it('refuses what does not exist, what is not a directory, and calls after it was closed', async () => {
  await writeFile(join(directory, 'file'), '');
  expect(() => inotify.add(join(directory, 'none'), IN.CREATE)).toThrow('ENOENT');
  expect(() => inotify.add(join(directory, 'file'), IN.CREATE | IN.ONLYDIR)).toThrow('ENOTDIR');
  inotify[Symbol.dispose]();
  expect(() => inotify.add(directory, IN.CREATE)).toThrow('EBADF');
});
