import { randomBytes } from 'node:crypto';
import {
  FileNotFoundError,
  type FilesystemEvent,
  FilesystemEventType,
  InvalidArgumentError,
  type Sandbox,
  type WatchHandle,
} from 'e2b';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sandboxOf, type TargetSource, until } from './harness.ts';

/** `watchDir` of the official client. */
export function describeWatch(targetOf: TargetSource): void {
  describe('watching a directory', () => {
    let sandbox: Sandbox;
    let directory: string;
    let handle: WatchHandle | undefined;
    let events: FilesystemEvent[];

    beforeAll(() => {
      sandbox = sandboxOf(targetOf());
    });

    beforeEach(async () => {
      events = [];
      directory = `${targetOf().workdir}/watch-${randomBytes(4).toString('hex')}`;
      await sandbox.files.makeDir(directory);
    });

    afterEach(async () => {
      await handle?.stop();
      handle = undefined;
      await sandbox.files.remove(directory);
    });

    const at = (name: string) => `${directory}/${name}`;

    const watch = async (options: { recursive?: boolean; includeEntry?: boolean } = {}) => {
      handle = await sandbox.files.watchDir(
        directory,
        (event) => {
          events.push(event);
        },
        options,
      );
    };

    const came = (type: FilesystemEventType, name: string) =>
      until(`${type} ${name} comes`, () =>
        events.some((event) => event.type === type && event.name === name),
      );

    it('reports that an existing file is written', async () => {
      await sandbox.files.write(at('file.txt'), 'first');
      await watch();
      await sandbox.files.write(at('file.txt'), 'second');
      await came(FilesystemEventType.WRITE, 'file.txt');
      expect(new Set(events.map((event) => event.name))).toEqual(new Set(['file.txt']));
    });

    it('reports every kind of change', async () => {
      await watch();
      await sandbox.files.write(at('a'), 'x');
      await came(FilesystemEventType.CREATE, 'a');
      await came(FilesystemEventType.WRITE, 'a');
      await sandbox.commands.run(`chmod 600 '${at('a')}'`);
      await came(FilesystemEventType.CHMOD, 'a');
      await sandbox.files.rename(at('a'), at('b'));
      await came(FilesystemEventType.RENAME, 'a');
      await came(FilesystemEventType.CREATE, 'b');
      await sandbox.files.remove(at('b'));
      await came(FilesystemEventType.REMOVE, 'b');
    });

    it('reports uploads of any size under their own name only', async () => {
      await watch();
      await sandbox.files.write(at('large'), 'x'.repeat(3_000_000));
      await came(FilesystemEventType.CREATE, 'large');
      await came(FilesystemEventType.WRITE, 'large');
      expect(new Set(events.map((event) => event.name))).toEqual(new Set(['large']));
    });

    it('covers sub-directories, including new ones, if requested', async () => {
      await sandbox.files.makeDir(at('nested'));
      await watch({ recursive: true });
      await sandbox.files.write(at('nested/file'), 'x');
      await came(FilesystemEventType.WRITE, 'nested/file');
      await sandbox.files.write(at('new/deep/file'), 'x');
      await came(FilesystemEventType.CREATE, 'new/deep');
      await came(FilesystemEventType.WRITE, 'new/deep/file');
    });

    it('ignores sub-directories otherwise', async () => {
      await sandbox.files.makeDir(at('nested'));
      await watch();
      await sandbox.files.write(at('nested/file'), 'x');
      await sandbox.files.write(at('last'), 'x');
      await came(FilesystemEventType.WRITE, 'last');
      expect(events.filter((event) => event.name.includes('file'))).toEqual([]);
    });

    it('includes the entry if requested', async () => {
      await watch({ includeEntry: true });
      await sandbox.files.write(at('described'), 'hello');
      await came(FilesystemEventType.WRITE, 'described');
      const written = events.find((event) => event.type === FilesystemEventType.WRITE);
      expect(written?.entry).toMatchObject({ path: at('described'), name: 'described' });
    });

    it('reports nothing more once it is stopped', async () => {
      await watch();
      await handle?.stop();
      await sandbox.files.write(at('after'), 'x');
      await watch();
      await sandbox.files.write(at('later'), 'x');
      await came(FilesystemEventType.CREATE, 'later');
      expect(events.map((event) => event.name)).not.toContain('after');
    });

    it('refuses a missing path, and one that is not a directory', async () => {
      const { files } = sandbox;
      await files.write(at('file'), '');
      await expect(files.watchDir(at('none'), () => {})).rejects.toThrow(FileNotFoundError);
      await expect(files.watchDir(at('file'), () => {})).rejects.toThrow(InvalidArgumentError);
    });
  });
}
