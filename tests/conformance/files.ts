import { createHash, randomBytes } from 'node:crypto';
import { FileNotFoundError, FileType, InvalidArgumentError, type Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sandboxOf, type TargetSource } from './harness.ts';

/** An emulated guest takes about a second for each MiB. */
const LARGE_MIB = { guest: 8, host: 64 };
const CHUNK_BYTES = 64 * 1024;

/** The files module of the official client, without its watches. */
export function describeFiles(targetOf: TargetSource): void {
  describe('files', () => {
    let sandbox: Sandbox;
    let directory: string;

    beforeAll(async () => {
      const target = targetOf();
      sandbox = sandboxOf(target);
      directory = `${target.workdir}/files-${randomBytes(4).toString('hex')}`;
      await sandbox.files.makeDir(directory);
    });

    afterAll(async () => {
      await sandbox.files.remove(directory);
    });

    const at = (name: string) => `${directory}/${name}`;

    it('writes and reads text', async () => {
      const text = 'žluťoučký kůň 🐴\n';
      const info = await sandbox.files.write(at('text.txt'), text);
      expect(info).toMatchObject({ name: 'text.txt', type: 'file', path: at('text.txt') });
      expect(await sandbox.files.read(at('text.txt'))).toBe(text);
    });

    it.each([{}, { useOctetStream: true }, { gzip: true }])(
      'writes every kind of data with %o',
      async (options) => {
        const bytes = randomBytes(200_000);
        const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
        const kinds: [string, ArrayBuffer | Blob | ReadableStream][] = [
          ['buffer', buffer],
          ['blob', new Blob([buffer])],
          ['stream', new Blob([buffer]).stream()],
        ];
        for (const [kind, data] of kinds) {
          await sandbox.files.write(at(kind), data, options);
          const read = await sandbox.files.read(at(kind), { format: 'bytes' });
          expect([kind, Buffer.compare(read, bytes)]).toEqual([kind, 0]);
        }
      },
    );

    it.each([{}, { gzip: true }])('reads into every format with %o', async (options) => {
      const text = 'read me '.repeat(50_000);
      await sandbox.files.write(at('read'), text);
      const { files } = sandbox;
      const blob = await files.read(at('read'), { format: 'blob', ...options });
      const bytes = await files.read(at('read'), { format: 'bytes', ...options });
      const stream = await files.read(at('read'), { format: 'stream', ...options });
      const pieces: Uint8Array[] = [];
      for await (const piece of stream) pieces.push(piece);
      const results = [
        await blob.text(),
        Buffer.from(bytes).toString(),
        Buffer.concat(pieces).toString(),
      ];
      for (const result of results) expect(result === text).toBe(true);
    });

    it('writes and reads empty files', async () => {
      await sandbox.files.write(at('empty'), '');
      expect(await sandbox.files.read(at('empty'))).toBe('');
      expect(await sandbox.files.read(at('empty'), { format: 'bytes' })).toHaveLength(0);
    });

    it('writes several files at once, and creates their directories', async () => {
      const entries = ['many/a', 'many/b/c', 'many/d é', '100%22.txt', 'a%0Ab'].map((name) => ({
        path: at(name),
        data: name,
      }));
      const written = await sandbox.files.write(entries);
      expect(written.map((file) => file.path)).toEqual(entries.map((entry) => entry.path));
      for (const { path, data } of entries) expect(await sandbox.files.read(path)).toBe(data);
      expect(await sandbox.files.write([])).toEqual([]);
    });

    it('replaces an existing file', async () => {
      await sandbox.files.write(at('replaced'), 'a long first content');
      await sandbox.files.write(at('replaced'), 'short');
      expect(await sandbox.files.read(at('replaced'))).toBe('short');
    });

    it('reads a file of proc', async () => {
      expect(await sandbox.files.read('/proc/meminfo')).toContain('MemTotal:');
    });

    it('describes what it wrote', async () => {
      const before = Date.now();
      await sandbox.files.write(at('described'), 'hello');
      const info = await sandbox.files.getInfo(at('described'));
      expect(info).toMatchObject({
        name: 'described',
        type: FileType.FILE,
        path: at('described'),
        size: 5,
        mode: 0o644,
        permissions: '-rw-r--r--',
        owner: targetOf().user,
      });
      // Clocks of two machines may differ by some seconds.
      expect(Math.abs((info.modifiedTime?.getTime() ?? 0) - before)).toBeLessThan(60_000);
      expect((await sandbox.files.getInfo(directory)).type).toBe(FileType.DIR);
    });

    it('describes links by their targets', async () => {
      await sandbox.files.write(at('links/target'), 'x');
      await sandbox.commands.run(`ln -s target '${at('links/link')}'`);
      const info = await sandbox.files.getInfo(at('links/link'));
      expect(info).toMatchObject({ type: FileType.FILE, symlinkTarget: at('links/target') });
      expect((await sandbox.files.getInfo(at('links/target'))).symlinkTarget).toBeUndefined();
    });

    it('keeps metadata with a file', async () => {
      const metadata = { purpose: 'conformance', empty: '' };
      const written = await sandbox.files.write(at('meta'), 'x', { metadata });
      expect(written.metadata).toEqual(metadata);
      expect((await sandbox.files.getInfo(at('meta'))).metadata).toEqual(metadata);
      const renamed = await sandbox.files.rename(at('meta'), at('meta-renamed'));
      expect(renamed.metadata).toEqual(metadata);
      await sandbox.files.write(at('meta-renamed'), 'y');
      expect((await sandbox.files.getInfo(at('meta-renamed'))).metadata).toBeUndefined();
    });

    it('lists down to the requested depth', async () => {
      await sandbox.files.write(at('tree/b/c/deep'), '');
      await sandbox.files.write(at('tree/a'), '');
      const list = async (depth?: number) => {
        const entries = await sandbox.files.list(at('tree'), depth === undefined ? {} : { depth });
        return entries.map((entry) => `${entry.type} ${entry.path.slice(at('tree/').length)}`);
      };
      expect(await list()).toEqual(['file a', 'dir b']);
      expect(await list(2)).toEqual(['file a', 'dir b', 'dir b/c']);
      expect(await list(5)).toEqual(['file a', 'dir b', 'dir b/c', 'file b/c/deep']);
      await expect(list(0)).rejects.toThrow(InvalidArgumentError);
      await expect(sandbox.files.list(at('tree/a'))).rejects.toThrow(InvalidArgumentError);
      await expect(sandbox.files.list(at('none'))).rejects.toThrow(FileNotFoundError);
    });

    it('creates directories, and reports whether they were new', async () => {
      expect(await sandbox.files.makeDir(at('made/one/two'))).toBe(true);
      expect(await sandbox.files.makeDir(at('made/one'))).toBe(false);
      expect((await sandbox.files.getInfo(at('made/one'))).owner).toBe(targetOf().user);
      await sandbox.files.write(at('made/file'), '');
      await expect(sandbox.files.makeDir(at('made/file'))).rejects.toThrow(InvalidArgumentError);
    });

    it('renames files and directories', async () => {
      await sandbox.files.write(at('old/file'), 'content');
      const info = await sandbox.files.rename(at('old'), at('new/parent/dir'));
      expect(info).toMatchObject({ name: 'dir', type: FileType.DIR, path: at('new/parent/dir') });
      expect(await sandbox.files.read(at('new/parent/dir/file'))).toBe('content');
      expect(await sandbox.files.exists(at('old'))).toBe(false);
      await expect(sandbox.files.rename(at('old'), at('x'))).rejects.toThrow(FileNotFoundError);
    });

    it('removes trees, also those that no longer exist', async () => {
      await sandbox.files.write(at('removed/a/b'), '');
      expect(await sandbox.files.exists(at('removed/a'))).toBe(true);
      await sandbox.files.remove(at('removed'));
      await sandbox.files.remove(at('removed'));
      expect(await sandbox.files.exists(at('removed/a'))).toBe(false);
    });

    it('throws typed errors', async () => {
      const { files } = sandbox;
      await expect(files.read(at('none'))).rejects.toThrow(FileNotFoundError);
      await expect(files.getInfo(at('none'))).rejects.toThrow(FileNotFoundError);
      await expect(files.read(directory)).rejects.toThrow(InvalidArgumentError);
      await expect(files.write(directory, 'x')).rejects.toThrow(InvalidArgumentError);
    });

    it('resolves relative paths in the home of the user', async () => {
      const home = (await sandbox.files.getInfo('.')).path;
      expect((await sandbox.files.getInfo('~')).path).toBe(home);
      expect((await sandbox.files.getInfo('.', { user: 'root' })).path).toBe('/root');
    });

    it('streams a large file both ways', async () => {
      const sent = createHash('sha256');
      const size = (targetOf().isGuest ? LARGE_MIB.guest : LARGE_MIB.host) * 1024 * 1024;
      let remaining = size;
      const source = new ReadableStream<Uint8Array>({
        pull(controller) {
          const chunk = randomBytes(CHUNK_BYTES);
          sent.update(chunk);
          controller.enqueue(chunk);
          remaining -= chunk.length;
          if (remaining <= 0) controller.close();
        },
      });
      await sandbox.files.write(at('large'), source);
      expect((await sandbox.files.getInfo(at('large'))).size).toBe(size);
      const received = createHash('sha256');
      const stream = await sandbox.files.read(at('large'), { format: 'stream' });
      for await (const chunk of stream) received.update(chunk);
      expect(received.digest('hex')).toBe(sent.digest('hex'));
    });
  });
}
