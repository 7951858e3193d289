// `npm run test:kvm`: sets the machine up, makes the disks, and runs `walk.ts` in an emulated
// machine that has KVM. Exit status 0 if every step passed.

import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { prepareGuest } from '@torpor/agent/guest-artifacts';
import { setUpHost } from '@torpor/agent/host-setup';
import { processIo, progressStatus, setupReport } from '@torpor/cli/testing';
import { loadConfig } from '@torpor/control-plane/config';
import { BASE_IMAGE, ImageStore } from '@torpor/images';
import { TorporError } from '@torpor/protocol';
import { ENVD_ENTRY } from '@torpor/testkit/guests';
import { type FirecrackerInstallation, findFirecracker, findQemu } from '@torpor/vmm';
import { consolePath, runEmulatedMachine } from './emulated-machine.ts';
import { ensureHostImage } from './host-image.ts';
import { type KvmTestOptions, parseKvmTestOptions, USAGE } from './options.ts';
import { makeProductDisk } from './product-disk.ts';
import { readVerdict } from './verdict.ts';

const CONSOLE_LINES = 40;
const startedAt = performance.now();

process.exit(await main(process.argv.slice(2)));

async function main(args: readonly string[]): Promise<number> {
  if (args.includes('--help')) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  let options: KvmTestOptions;
  try {
    options = parseKvmTestOptions(args, process.env);
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n\n${USAGE}\n`);
    return 2;
  }
  try {
    return await run(options);
  } catch (error) {
    say(`failed: ${messageOf(error)}`);
    return 1;
  }
}

async function run(options: KvmTestOptions): Promise<number> {
  const io = processIo();
  await setUpHost({ report: setupReport(io) });
  const firecracker = await suppliedFirecracker(options);
  const { cacheDir } = (await loadConfig({ env: process.env })).config;
  const store = new ImageStore({ cacheDir });
  const artifacts = await prepareGuest(store, {
    cacheDir,
    envdEntry: ENVD_ENTRY,
    onProgress: progressStatus(io),
  });
  const image = await store.resolve(BASE_IMAGE);
  if (image === undefined) throw new Error(`the cache has no image ${BASE_IMAGE}`);
  say('Debian for the emulated machine (made once, in some five minutes)');
  const hostImage = await ensureHostImage(cacheDir, say);

  const root = join(cacheDir, 'kvm-test');
  await mkdir(root, { recursive: true });
  const directory = await mkdtemp(join(root, 'run-'));
  const stop = new AbortController();
  const unsubscribe = io.onSignal(() => stop.abort(new Error('it was interrupted')));
  try {
    say('the disk with this checkout and the guest artefacts');
    const productDiskPath = join(directory, 'product.img');
    const guest = { artifacts, image, cacheDir };
    await makeProductDisk(productDiskPath, join(directory, 'staging'), guest, firecracker);
    return await boot(options, { directory, productDiskPath, hostImage, stop });
  } finally {
    unsubscribe();
    if (options.keep) say(`kept: ${directory}`);
    else await rm(directory, { recursive: true, force: true });
  }
}

/** Detected as in Torpor, with the jailer beside it. One that does not run is refused before anything is created. */
async function suppliedFirecracker({
  firecracker: supplied,
}: KvmTestOptions): Promise<FirecrackerInstallation | undefined> {
  if (supplied === undefined) return undefined;
  const { path: firecracker, jailerPath: jailer } = supplied;
  const found = await findFirecracker({ firecracker, jailer });
  say(
    `sandboxes will run in Firecracker ${found.version}, ${found.jailerPath ?? 'without a jailer'}`,
  );
  return found;
}

async function boot(
  options: KvmTestOptions,
  parts: {
    readonly directory: string;
    readonly productDiskPath: string;
    readonly hostImage: Awaited<ReturnType<typeof ensureHostImage>>;
    readonly stop: AbortController;
  },
): Promise<number> {
  const { directory, productDiskPath, hostImage, stop } = parts;
  const minutes = options.timeoutMinutes;
  const timer = setTimeout(
    () => stop.abort(new Error(`it had not finished after ${minutes} minutes`)),
    minutes * 60_000,
  );
  say('booting the emulated machine; what follows comes from it');
  let verdict: ReturnType<typeof readVerdict>;
  try {
    await runEmulatedMachine({
      qemu: await findQemu(process.env.TORPOR_QEMU),
      image: hostImage,
      productDiskPath,
      directory,
      memoryMiB: options.memoryMiB,
      signal: stop.signal,
      onLine: (line) => {
        verdict ??= readVerdict(line);
        say(`| ${line}`);
      },
    });
  } catch (error) {
    await showConsole(directory);
    throw stop.signal.aborted ? stop.signal.reason : error;
  } finally {
    clearTimeout(timer);
  }
  if (verdict === undefined) {
    await showConsole(directory);
    throw new Error('the machine exited without a verdict');
  }
  process.stdout.write(`${verdict.passed} passed, ${verdict.failed} failed\n`);
  return verdict.failed === 0 && verdict.passed > 0 ? 0 : 1;
}

async function showConsole(directory: string): Promise<void> {
  const text = await readFile(consolePath(directory), 'utf8').catch(() => '');
  say('the last lines of its console:');
  for (const line of text.split('\n').slice(-CONSOLE_LINES)) say(`: ${line.trimEnd()}`);
}

function say(line: string): void {
  const elapsed = ((performance.now() - startedAt) / 1000).toFixed(0).padStart(5);
  process.stdout.write(`${elapsed} s  ${line}\n`);
}

function messageOf(error: unknown): string {
  if (error instanceof TorporError) return `${error.message} ${error.remedy}`.trimEnd();
  return error instanceof Error ? error.message : String(error);
}
