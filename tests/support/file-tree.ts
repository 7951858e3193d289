import { execFileSync } from 'node:child_process';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';

/**
 * Creates a directory with every kind of entry that a file system can have, except a socket.
 * Needs root for the device and the owners.
 */
export function makeTreeOfEveryKind(root: string): void {
  // Bash, for names that are not UTF-8; the long path exceeds the limit of a single name.
  const script = String.raw`
    set -eu
    mkdir "$1" && cd "$1"
    printf 'text\n' > file; : > empty; printf x > ./-dash; printf x > 'with space'
    printf x > $'new\nline'; printf x > $'\xff\xfe'; printf x > "$(printf '%0255d' 0)"
    head -c 1000003 /dev/urandom > odd-size
    truncate -s 200M hole; printf end >> hole; printf middle | dd of=hole bs=1 seek=5000000 conv=notrunc status=none
    truncate -s 5M only-hole
    printf linked > hard; ln hard hard-too; mkdir sub; ln hard sub/hard-three
    printf outside > ../outside; ln ../outside one-name-here
    ln -s file relative; ln -s /etc/passwd absolute; ln -s nowhere dangling; ln -s sub to-directory
    ln -s $'\xff' bytes; ln relative relative-too
    mkfifo fifo; mknod device c 1 3
    printf x > set-id; chmod 6755 set-id; printf x > secret; chmod 0 secret; printf x > read-only; chmod 444 read-only
    mkdir closed sticky set-group read-only-dir; printf x > read-only-dir/file
    chmod 0 closed; chmod 1777 sticky; chmod 2775 set-group
    long=deep; for i in $(seq 15); do long=$long/$(printf "%0200d" $i); done
    mkdir -p "$long"; printf x > "$long/file"
    touch -d '1969-12-31 23:59:58.123456789Z' file; touch -d '2400-01-01 00:00:00.000000001Z' empty
    touch -h -d '2001-02-03 04:05:06.789012345Z' relative dangling
    touch -d '2002-03-04 05:06:07.890123456Z' fifo device sub sticky
    chown 1234:4321 odd-size; chown -h 1234:4321 absolute
    chmod 555 read-only-dir; touch -d '2003-04-05 06:07:08.901234567Z' read-only-dir .
  `;
  execFileSync('/bin/bash', ['-c', script, 'bash', root], { env: { PATH: process.env.PATH } });
}

/** Creates a socket at a path. */
export async function makeSocket(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  // Closing the server would remove it.
  execFileSync('mv', [path, `${path}.kept`]);
  await new Promise((resolve) => server.close(resolve));
  execFileSync('mv', [`${path}.kept`, path]);
}

const BLOCK_BYTES = 512n;

/**
 * The attributes from lstat(2) that a copy can keep, and the contents, of the entries of a tree,
 * by path (as Latin-1). A hard link is described by the first path of the file.
 */
export function describeTree(root: string): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  const firstNames = new Map<bigint, string>();
  const visit = (path: Buffer, shown: string) => {
    const stats = lstatSync(path, { bigint: true });
    const first = firstNames.get(stats.ino) ?? shown;
    firstNames.set(stats.ino, first);
    const isSparse = stats.isFile() && stats.blocks * BLOCK_BYTES < stats.size;
    found[shown] = {
      mode: stats.mode.toString(8),
      mtimeNs: stats.mtimeNs,
      owner: `${stats.uid}:${stats.gid}`,
      sameAs: first,
      ...(stats.isDirectory() ? {} : { size: stats.size }),
      ...(stats.isFile() && !isSparse ? { content: readFileSync(path).toString('base64') } : {}),
      ...(isSparse ? { blocks: stats.blocks } : {}),
      ...(stats.isSymbolicLink() ? { target: readlinkSync(path, 'latin1') } : {}),
      ...(stats.isCharacterDevice() ? { device: stats.rdev } : {}),
    };
    if (!stats.isDirectory()) return;
    for (const name of readdirSync(path, { encoding: 'buffer' }).sort(Buffer.compare)) {
      visit(Buffer.concat([path, Buffer.from('/'), name]), join(shown, name.toString('latin1')));
    }
  };
  visit(Buffer.from(root), '.');
  return found;
}
