import { createReadStream, createWriteStream } from 'node:fs';
import { lstat, mkdir, mkdtemp, readdir, readlink, rename, rm, symlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { TorporError } from '@torpor/protocol';
import type { ExecSession, Sandbox } from '@torpor/sdk';
import { extract, pack } from 'tar-stream';
import type { TransferProgress } from '../output/progress.ts';
import { counter } from './files.ts';

const MAX_MESSAGE_BYTES = 4096;
const PERMISSIONS = 0o777;

/**
 * Copies a local directory into a sandbox, as a tar stream into the tar of the
 * guest. Permissions and symbolic links are kept; owners are the guest user's.
 * Returns the paths that are neither file, directory nor link, which are left out.
 */
export async function uploadDirectory(
  sandbox: Sandbox,
  from: string,
  to: string,
  user: string | undefined,
  progress: TransferProgress,
): Promise<string[]> {
  await ensureRemoteDirectory(sandbox, to, user);
  await using session = await sandbox.execStream(
    'tar',
    ['-x', '-f', '-', '--no-same-owner', '-C', to],
    { stdin: true, user },
  );
  const result = collect(session);
  const skipped: string[] = [];
  const archive = pack();
  const packing = packDirectory(archive, from, '', skipped).then(
    () => archive.finalize(),
    (error) => archive.destroy(error),
  );
  try {
    for await (const chunk of archive as AsyncIterable<Buffer>) {
      await session.write(chunk);
      progress.add(chunk.length);
    }
    await session.closeStdin();
  } catch (error) {
    // A tar that gave up knows better why than our broken stream does.
    const ended = await Promise.race([result, Promise.resolve(undefined)]);
    if (ended !== undefined && ended.exitCode !== 0) throw tarError(ended);
    throw error;
  } finally {
    archive.destroy();
    await packing;
  }
  const ended = await result;
  if (ended.exitCode !== 0) throw tarError(ended);
  return skipped;
}

/**
 * Copies a directory of a sandbox to `to`, which must not exist. The sandbox is
 * not trusted: names that lead out of the directory are refused, devices are left
 * out, set-id bits are dropped, and links are made last, so that nothing is ever
 * written through one. The directory appears when it is complete.
 */
export async function downloadDirectory(
  sandbox: Sandbox,
  from: string,
  to: string,
  user: string | undefined,
  progress: TransferProgress,
): Promise<string[]> {
  await using session = await sandbox.execStream('tar', ['-c', '-f', '-', '-C', from, '.'], {
    user,
  });
  const staging = await mkdtemp(join(dirname(to), `.${basename(to)}.part-`));
  const messages: Buffer[] = [];
  try {
    const archive = Readable.from(stdoutOf(session, messages));
    const skipped = await unpack(archive, staging, progress);
    const ended = { ...(await session.wait()), message: Buffer.concat(messages).toString() };
    if (ended.exitCode !== 0) throw tarError(ended);
    await rename(staging, to);
    return skipped;
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw error;
  }
}

async function ensureRemoteDirectory(
  sandbox: Sandbox,
  path: string,
  user: string | undefined,
): Promise<void> {
  try {
    await sandbox.files.makeDir(path, { user });
  } catch (reason) {
    const error = TorporError.from(reason);
    if (error.code !== 'already_exists' && error.code !== 'conflict') throw error;
  }
}

interface TarResult {
  readonly exitCode: number;
  readonly message: string;
}

async function collect(session: ExecSession): Promise<TarResult> {
  const messages: Buffer[] = [];
  for await (const _ of stdoutOf(session, messages));
  const { exitCode } = await session.wait();
  return { exitCode, message: Buffer.concat(messages).toString() };
}

async function* stdoutOf(session: ExecSession, messages: Buffer[]): AsyncGenerator<Buffer, void> {
  let size = 0;
  for await (const { stream, data } of session.output()) {
    if (stream === 'stdout') yield data;
    else if (size < MAX_MESSAGE_BYTES) {
      messages.push(data.subarray(0, MAX_MESSAGE_BYTES - size));
      size += data.length;
    }
  }
}

function tarError({ exitCode, message }: TarResult): TorporError {
  return new TorporError(
    'internal_error',
    `tar in the sandbox ended with status ${exitCode}: ${message.trim()}`,
    { remedy: 'Look at what tar says about the path, its permissions, or the disk.' },
  );
}

type Pack = ReturnType<typeof pack>;

async function packDirectory(
  archive: Pack,
  root: string,
  relative: string,
  skipped: string[],
): Promise<void> {
  for (const name of (await readdir(join(root, relative))).sort()) {
    const path = relative === '' ? name : `${relative}/${name}`;
    const local = join(root, path);
    const { mode, mtime, size, ...entry } = await lstat(local).then((stats) => ({
      mode: stats.mode & PERMISSIONS,
      mtime: stats.mtime,
      size: stats.size,
      isFile: stats.isFile(),
      isDirectory: stats.isDirectory(),
      isSymbolicLink: stats.isSymbolicLink(),
    }));
    if (entry.isDirectory) {
      await addEntry(archive, { name: path, type: 'directory', mode, mtime });
      await packDirectory(archive, root, path, skipped);
    } else if (entry.isSymbolicLink) {
      const linkname = await readlink(local);
      await addEntry(archive, { name: path, type: 'symlink', linkname, mode, mtime });
    } else if (entry.isFile) {
      const sink = archive.entry({ name: path, type: 'file', mode, mtime, size });
      await pipeline(createReadStream(local, { end: Math.max(0, size - 1) }), sink);
    } else {
      skipped.push(path);
    }
  }
}

function addEntry(archive: Pack, header: Parameters<Pack['entry']>[0]): Promise<void> {
  return new Promise((resolve, reject) => {
    archive.entry(header, (error) => (error == null ? resolve() : reject(error)));
  });
}

/** Unpacks an archive from an untrusted source into an empty directory. */
export async function unpack(
  archive: Readable,
  directory: string,
  progress: TransferProgress,
): Promise<string[]> {
  const skipped: string[] = [];
  const links: { path: string; target: string }[] = [];
  const entries = archive.pipe(counter(progress)).pipe(extract());
  archive.on('error', (error) => entries.destroy(error));
  for await (const entry of entries) {
    const { name, type, mode, linkname } = entry.header;
    const path = join(directory, safeRelativePath(name));
    switch (type) {
      case 'directory':
        await mkdir(path, { recursive: true });
        entry.resume();
        break;
      case 'file':
      case 'contiguous-file':
        await mkdir(dirname(path), { recursive: true });
        await pipeline(
          entry,
          createWriteStream(path, { flags: 'wx', mode: (mode ?? 0o644) & PERMISSIONS }),
        );
        break;
      case 'symlink':
        if (linkname != null) links.push({ path, target: linkname });
        entry.resume();
        break;
      default:
        skipped.push(name);
        entry.resume();
    }
  }
  for (const { path, target } of links) {
    await mkdir(dirname(path), { recursive: true });
    await symlink(target, path);
  }
  return skipped;
}

/** The path of a member below the directory. Throws for one that would lead out of it. */
function safeRelativePath(name: string): string {
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (name.startsWith('/') || name.includes('\0') || parts.includes('..')) {
    throw new TorporError(
      'invalid_request',
      `The sandbox sent a file that leads out of the directory: ${JSON.stringify(name)}.`,
      { remedy: 'Do not trust this sandbox.' },
    );
  }
  return parts.join('/');
}
