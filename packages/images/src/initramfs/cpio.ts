/** An entry of a cpio archive. Directories must come before what is in them. */
export type CpioEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode?: number }
  | { readonly kind: 'file'; readonly path: string; readonly data: Buffer; readonly mode?: number }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }
  | {
      readonly kind: 'character-device';
      readonly path: string;
      readonly major: number;
      readonly minor: number;
      readonly mode?: number;
      /** The owning group; 0 by default. */
      readonly gid?: number;
    };

const TRAILER = 'TRAILER!!!';
const TYPE_BITS = {
  directory: 0o040000,
  file: 0o100000,
  symlink: 0o120000,
  'character-device': 0o020000,
} as const;
const DEFAULT_MODE = {
  directory: 0o755,
  file: 0o644,
  symlink: 0o777,
  'character-device': 0o600,
} as const;

/**
 * A cpio archive in the format that the kernel unpacks into its initramfs
 * (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst). The same
 * entries give the same bytes: owner root, time 0, inode numbers by position.
 * Paths are relative, without a leading slash.
 */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  const append = (fields: Fields) => {
    const name = Buffer.from(`${fields.path}\0`);
    const header = [
      fields.inode,
      fields.mode,
      0, // uid
      fields.gid,
      1, // links
      0, // time of modification
      fields.data.length,
      0, // device of the archive, major and minor
      0,
      fields.major,
      fields.minor,
      name.length,
      0, // checksum, unused in this format
    ];
    const head = Buffer.from(`070701${header.map(hex8).join('')}`, 'latin1');
    parts.push(head, name, padding(head.length + name.length));
    parts.push(fields.data, padding(fields.data.length));
  };
  entries.forEach((entry, index) => {
    if (entry.path === '' || entry.path.startsWith('/')) {
      throw new Error(`a path in a cpio archive is relative: ${JSON.stringify(entry.path)}`);
    }
    const mode = ('mode' in entry ? entry.mode : undefined) ?? DEFAULT_MODE[entry.kind];
    append({
      path: entry.path,
      inode: index + 1,
      mode: TYPE_BITS[entry.kind] | mode,
      data: contents(entry),
      major: entry.kind === 'character-device' ? entry.major : 0,
      minor: entry.kind === 'character-device' ? entry.minor : 0,
      gid: 'gid' in entry ? (entry.gid ?? 0) : 0,
    });
  });
  append({ path: TRAILER, inode: 0, mode: 0, data: Buffer.alloc(0), major: 0, minor: 0, gid: 0 });
  return Buffer.concat(parts);
}

interface Fields {
  readonly path: string;
  readonly inode: number;
  readonly mode: number;
  readonly data: Buffer;
  readonly major: number;
  readonly minor: number;
  readonly gid: number;
}

function contents(entry: CpioEntry): Buffer {
  if (entry.kind === 'file') return entry.data;
  return entry.kind === 'symlink' ? Buffer.from(entry.target) : Buffer.alloc(0);
}

function hex8(value: number): string {
  return value.toString(16).toUpperCase().padStart(8, '0');
}

function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}
