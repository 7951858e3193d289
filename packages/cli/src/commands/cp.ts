import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join, posix } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { TorporError } from '@torpor/protocol';
import type { Sandbox } from '@torpor/sdk';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json } from '../io.ts';
import { news, TransferProgress } from '../output/progress.ts';
import { downloadDirectory, uploadDirectory } from '../transfer/directories.ts';
import { parseTransfer, type Transfer } from '../transfer/endpoint.ts';
import { downloadFile, inspectLocal, uploadFile } from '../transfer/files.ts';
import { inspectRemote } from '../transfer/remote-path.ts';

interface CpOptions extends CommonOptions {
  readonly user?: string;
  readonly verify?: boolean;
}

interface Copied {
  readonly from: string;
  readonly to: string;
  readonly bytes: number;
  readonly sha256?: string;
}

export function registerCp(cli: CliContext): void {
  cli
    .command('cp <source> <destination>', 'copy a file or directory into or out of a sandbox')
    .option('-u, --user <name>', 'do it as this user of the sandbox (default: user)')
    .option('--verify', 'compare the SHA-256 of a file on both sides afterwards')
    .addHelpText(
      'after',
      '\nOne side is ID:PATH, in the sandbox. A destination that is a directory receives the copy in it.',
    )
    .action(
      cli.action(
        async (source: string, destination: string, options: CpOptions, _command: Command) => {
          const transfer = parseTransfer(source, destination);
          await cli.withSandbox(options, transfer.id, async (sandbox) => {
            const copied =
              transfer.kind === 'upload'
                ? await upload(cli, sandbox, transfer, options)
                : await download(cli, sandbox, transfer, options);
            if (options.json) await json(cli.io, copied);
          });
        },
      ),
    );
}

async function upload(
  { io }: CliContext,
  sandbox: Sandbox,
  { from, to }: Extract<Transfer, { kind: 'upload' }>,
  options: CpOptions,
): Promise<Copied> {
  const kind = await inspectLocal(from);
  if (kind === 'absent') throw new TorporError('not_found', `${from} does not exist.`);
  const remote = await inspectRemote(sandbox, to);
  const name = basename(from === '.' || from.endsWith('..') ? process.cwd() : from);
  const into = remote.kind === 'directory' || to.endsWith('/');
  const target = into ? posix.join(to, name) : to;
  if (kind === 'directory') {
    if (remote.kind === 'file') {
      throw new TorporError('conflict', `${to} is a file in the sandbox.`);
    }
    using progress = new TransferProgress(io, name, undefined, !options.json);
    const skipped = await uploadDirectory(sandbox, from, target, options.user, progress);
    reportSkipped({ io }, skipped);
    return { from, to: target, bytes: progress.bytes };
  }
  using progress = new TransferProgress(io, name, (await stat(from)).size, !options.json);
  await uploadFile(sandbox, from, target, options.user, progress);
  return {
    from,
    to: target,
    bytes: progress.bytes,
    ...(await verify(sandbox, from, target, options)),
  };
}

async function download(
  { io }: CliContext,
  sandbox: Sandbox,
  { from, to }: Extract<Transfer, { kind: 'download' }>,
  options: CpOptions,
): Promise<Copied> {
  const remote = await inspectRemote(sandbox, from);
  if (remote.kind === 'absent') {
    throw new TorporError('not_found', `${from} does not exist in the sandbox.`);
  }
  const local = await inspectLocal(to);
  const name = posix.basename(from);
  if (local === 'absent' && to.endsWith('/')) {
    throw new TorporError('not_found', `The directory ${to} does not exist.`);
  }
  const target = local === 'directory' ? join(to, name) : to;
  const targetKind = local === 'directory' ? await inspectLocal(target) : local;
  if (remote.kind === 'directory') {
    if (targetKind !== 'absent') {
      throw new TorporError('already_exists', `${target} exists already.`, {
        remedy: 'Remove it, or name another destination.',
      });
    }
    using progress = new TransferProgress(io, name, undefined, !options.json);
    const skipped = await downloadDirectory(sandbox, from, target, options.user, progress);
    reportSkipped({ io }, skipped);
    return { from, to: target, bytes: progress.bytes };
  }
  if (targetKind === 'directory') {
    throw new TorporError('conflict', `${target} is a directory, ${from} is a file.`);
  }
  using progress = new TransferProgress(io, name, remote.size, !options.json);
  await downloadFile(sandbox, from, target, options.user, progress);
  return {
    from,
    to: target,
    bytes: progress.bytes,
    ...(await verify(sandbox, target, from, options)),
  };
}

/** Compares the checksums on both sides if that was asked for. */
async function verify(
  sandbox: Sandbox,
  local: string,
  remote: string,
  options: CpOptions,
): Promise<{ sha256?: string }> {
  if (!options.verify) return {};
  const hash = createHash('sha256');
  await pipeline(createReadStream(local), hash);
  const sha256 = hash.digest('hex');
  const { stdout, stderr, exitCode } = await sandbox.exec('sha256sum', ['-b', '--', remote], {
    user: options.user,
    timeoutMs: 0,
  });
  if (exitCode !== 0) {
    throw new TorporError('internal_error', `sha256sum failed in the sandbox: ${stderr.trim()}`);
  }
  if (!stdout.replace(/^\\/, '').startsWith(sha256)) {
    throw new TorporError('internal_error', `${local} and ${remote} differ after the copy.`, {
      remedy: 'Copy it again; something else may be writing to it.',
    });
  }
  return { sha256 };
}

function reportSkipped({ io }: Pick<CliContext, 'io'>, skipped: readonly string[]): void {
  if (skipped.length === 0) return;
  const shown = skipped.slice(0, 5).join(', ');
  const more = skipped.length > 5 ? ` and ${skipped.length - 5} more` : '';
  news(io, `left out what is neither file, directory nor symbolic link: ${shown}${more}`);
}
