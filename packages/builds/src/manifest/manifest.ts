import { z } from 'zod';
import { BuildFormatError } from '../errors.ts';
import { MAX_MEMORY_BYTES } from '../header/memory-header.ts';

/** The version of the directory format that this program writes and reads. */
export const MANIFEST_VERSION = 1;

/** Files of a build, and what is in them. */
export const BUILD_FILES = {
  manifest: 'manifest.json',
  /** Where each block of RAM is: see `memory-header.ts`. */
  header: 'memfile.header',
  /** The blocks of RAM that this build stores, one after the other. */
  memory: 'memfile',
  /** State of vCPUs and devices, as the VMM wrote it. */
  state: 'vmstate',
  /** The writable disk, sparse. */
  disk: 'disk.img',
} as const;

export type BuildFileName = (typeof BUILD_FILES)[keyof typeof BUILD_FILES];

const uuid = z.string().regex(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
const word = z.string().min(1).max(200);

const fileSchema = z.strictObject({
  name: z.enum([BUILD_FILES.header, BUILD_FILES.memory, BUILD_FILES.state, BUILD_FILES.disk]),
  /** Apparent size in bytes. */
  size: z.int().min(0),
  /** CRC-32 of the file's data, eight hexadecimal digits; of a sparse file, see `checksumFile`. */
  crc32: z.string().regex(/^[0-9a-f]{8}$/),
});

/** What a build was made with. A restore needs the same machine and VMM. */
const producerSchema = z.strictObject({
  torpor: word,
  vmm: z.enum(['qemu', 'firecracker']),
  vmmVersion: word,
  accelerator: z.enum(['kvm', 'tcg']),
  /** Machine type, for example `microvm`. */
  machine: word,
  cpuModel: word,
  kernelVersion: word,
  envdVersion: word,
});

export const manifestSchema = z.strictObject({
  format: z.literal('torpor-build'),
  version: z.literal(MANIFEST_VERSION),
  id: uuid,
  /** The build of the generation before; not set for the first. */
  parentId: uuid.optional(),
  createdAt: z.iso.datetime(),
  producer: producerSchema,
  vcpus: z.int().min(1).max(1024),
  memoryMiB: z
    .int()
    .min(1)
    .max(MAX_MEMORY_BYTES / 2 ** 20),
  diskMiB: z.int().min(1),
  /** What the machine needs beyond the build: paths on this host, by role (kernel, base image, …). */
  artifacts: z.record(word, z.string().startsWith('/').max(4096)),
  /** The identity of the guest; not set while it has none yet. */
  sandboxId: word.optional(),
  files: z.array(fileSchema).min(1).max(4),
});

export type Manifest = z.infer<typeof manifestSchema>;
export type ManifestFile = Manifest['files'][number];
export type Producer = Manifest['producer'];

/** Larger than any valid manifest; a larger file is not read. */
const MAX_MANIFEST_BYTES = 64 * 1024;

/** Reads a manifest, or throws {@link BuildFormatError} with what is wrong. `path` names the file. */
export function parseManifest(text: string, path: string): Manifest {
  if (text.length > MAX_MANIFEST_BYTES)
    throw new BuildFormatError(path, 'too large for a manifest');
  const result = manifestSchema.safeParse(parseJson(text, path));
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const where = issue === undefined ? '' : issue.path.join('.');
  throw new BuildFormatError(path, `${where === '' ? '' : `${where}: `}${issue?.message}`);
}

function parseJson(text: string, path: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new BuildFormatError(path, 'not JSON: torn, or not a manifest');
  }
  const version = versionOf(value);
  if (version !== undefined && version !== MANIFEST_VERSION) {
    throw new BuildFormatError(
      path,
      `format version ${version} instead of ${MANIFEST_VERSION}`,
      'Use the version of Torpor that made the build, or make it again with this one.',
    );
  }
  return value;
}

/** The version of a file that otherwise looks like a manifest, for a specific error message. */
function versionOf(value: unknown): number | undefined {
  const known = z.looseObject({ format: z.literal('torpor-build'), version: z.number() });
  const result = known.safeParse(value);
  return result.success ? result.data.version : undefined;
}
