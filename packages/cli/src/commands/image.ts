import type { Image } from '@torpor/agent/guest-artifacts';
import { formatBytes } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, readConfig } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { progressStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';
import { formatAge } from '../output/units.ts';
import { removeEach } from './remove-each.ts';

interface PruneOptions extends CommonOptions {
  readonly dryRun?: boolean;
}

interface BuildOptions extends CommonOptions {
  readonly refresh?: boolean;
}

export function registerImage(cli: CliContext): void {
  const image = cli.group('image', 'manage the images that sandboxes on this machine start from');
  registerList(cli, image);
  registerBuild(cli, image);
  registerRemove(cli, image);
  registerPrune(cli, image);
}

function registerList(cli: CliContext, image: Command): void {
  cli
    .command('ls', 'list the images', image, { isDefault: true })
    .alias('list')
    .action(
      cli.action(async (options: CommonOptions, _command: Command) => {
        const images = await (await openStore(cli, options)).list();
        if (options.json) return json(cli.io, images.map(describe));
        const rows = images.map(({ name, key, sizeBytes, createdAt }) => [
          name,
          key.slice(0, 12),
          formatBytes(sizeBytes),
          formatAge(createdAt),
        ]);
        await line(cli.io.stdout, table(['NAME', 'VERSION', 'SIZE', 'AGE'], rows));
      }),
    );
}

function registerBuild(cli: CliContext, image: Command): void {
  cli
    .command('build [name]', 'build an image (default: base)', image)
    .option('--refresh', 'rebuild it with the newest packages')
    .action(
      cli.action(async (name = 'base', options: BuildOptions, _command: Command) => {
        const interrupted = new AbortController();
        const unsubscribe = cli.io.onSignal(() => interrupted.abort());
        try {
          const store = await openStore(cli, options);
          const built = await store.build(name, {
            onProgress: progressStatus(cli.io),
            signal: interrupted.signal,
            refresh: options.refresh === true,
          });
          await (options.json
            ? json(cli.io, describe(built))
            : line(cli.io.stdout, `${built.name} ${built.key.slice(0, 12)}`));
        } finally {
          unsubscribe();
        }
      }),
    );
}

function registerRemove(cli: CliContext, image: Command): void {
  cli.command('rm <names...>', 'remove images that no sandbox uses', image).action(
    cli.action(async (names: string[], options: CommonOptions, _command: Command) => {
      const store = await openStore(cli, options);
      return removeEach(cli.io, names, options, {
        key: 'name',
        remove: async (name) => {
          await store.remove(name);
          return name;
        },
      });
    }),
  );
}

function registerPrune(cli: CliContext, image: Command): void {
  cli
    .command(
      'prune',
      'remove files of earlier versions that are no longer needed from the cache',
      image,
    )
    .option('--dry-run', 'only print what would be removed')
    .addHelpText(
      'after',
      `
These are old kernels, initramfs files, agent drives and versions of images. What a sandbox or
build was made with is kept as long as that sandbox or build exists, in any data directory whose
server uses the cache.`,
    )
    .action(
      cli.action(async (options: PruneOptions, _command: Command) => {
        const { pruneCache } = await import('@torpor/agent/guest-artifacts');
        const { ENVD_ENTRY } = await import('../platform/envd-entry.ts');
        const { cacheDir, dataDir } = await readConfig(cli.io, options);
        const dryRun = options.dryRun === true;
        const pruned = await pruneCache({ cacheDir, dataDir, envdEntry: ENVD_ENTRY }, { dryRun });
        const freed = pruned.reduce((sum, { bytes }) => sum + bytes, 0);
        if (options.json) {
          const removed = pruned.map(({ path, bytes }) => ({ path, size_bytes: bytes }));
          return json(cli.io, { dry_run: dryRun, removed, freed_bytes: freed });
        }
        const { stdout } = cli.io;
        for (const { path, bytes } of pruned) await line(stdout, `${path}  ${formatBytes(bytes)}`);
        await line(stdout, `${formatBytes(freed)} ${dryRun ? 'would be freed' : 'freed'}`);
      }),
    );
}

async function openStore({ io }: CliContext, options: CommonOptions) {
  // Loaded here, because most commands do not need the code of the host.
  const { openImageStore } = await import('@torpor/agent/guest-artifacts');
  const { cacheDir, dataDir } = await readConfig(io, options);
  return openImageStore(cacheDir, dataDir);
}

function describe({ name, key, path, sizeBytes, createdAt }: Image) {
  return { name, key, path, size_bytes: sizeBytes, created_at: createdAt };
}
