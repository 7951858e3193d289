import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { TorporError } from '@torpor/protocol';
import type { Sandbox } from '@torpor/sdk';
import { request } from 'undici';
import type { Benchmark, Cost } from '../harness/benchmark.ts';
import { interleave, timed } from '../harness/interleave.ts';
import type { Measurements } from '../harness/measurements.ts';
import type { Platform } from '../support/platform.ts';

const PLAIN_SERVER = fileURLToPath(new URL('./plain-server.mjs', import.meta.url));
const GUEST_PORT = 8123;
const CHUNK_BYTES = 256 * 1024;
const MIB = 2 ** 20;
const START_TIMEOUT_MS = 120_000;

const PATHS = {
  api: 'through the API',
  envd: 'straight to envd',
  guest: 'plain Node server in the guest',
  host: 'plain Node server on the host',
} as const;
const DIRECTIONS = { upload: 'upload', download: 'download' } as const;

export const files: Benchmark = {
  name: 'files',
  title: 'Moving files: through the API, straight to envd, and a plain Node server',
  method:
    'One sandbox; a file of random bytes is sent to it and fetched again (8 MiB; 1 MiB in a quick run): ' +
    'with the SDK through the API, by the same client from envd itself, and from the least that a Node HTTP ' +
    'server can be, in the same guest and on the host. From envd a plain HTTP client fetches it too, ' +
    'with and without asking for gzip. All by turns, over connections that are kept alive.',
  series: {
    ...Object.fromEntries(
      Object.keys(DIRECTIONS).flatMap((direction) =>
        Object.entries(PATHS).map(([path, title]) => [
          `${direction}-${path}`,
          { title: `${direction}, ${title}, per MiB`, unit: 'ms' as const },
        ]),
      ),
    ),
    'download-plain': { title: 'download, from envd by a plain HTTP client, per MiB', unit: 'ms' },
    'download-gzip': { title: 'download, likewise, asking for gzip, per MiB', unit: 'ms' },
  },
  comparisons: [
    {
      title: 'download from envd by a plain HTTP client, asking for gzip ÷ not asking',
      of: 'download-gzip',
      to: 'download-plain',
    },
    ...Object.keys(DIRECTIONS).flatMap((direction) => [
      {
        title: `${direction} through the API ÷ straight to envd`,
        of: `${direction}-api`,
        to: `${direction}-envd`,
      },
      {
        title: `${direction} straight to envd ÷ plain server in the guest`,
        of: `${direction}-envd`,
        to: `${direction}-guest`,
      },
      {
        title: `${direction} of the plain server in the guest ÷ on the host`,
        of: `${direction}-guest`,
        to: `${direction}-host`,
      },
    ]),
  ],
  costs: (measured) =>
    Object.keys(DIRECTIONS).map((direction) => ({
      title: `A MiB of ${direction} through the API`,
      costs: costsOf(measured, direction),
    })),
  async run(context) {
    const size = context.quick ? MIB : 8 * MIB;
    const rounds = context.quick ? 2 : 12;
    const content = randomBytes(size);
    context.progress('starting a sandbox');
    await using stack = new AsyncDisposableStack();
    const sandbox = await context.shared.sandbox();
    const platform = await context.shared.platform();
    const endpoint = await platform.envdEndpoint(sandbox);
    const envd = await platform.envd(sandbox);
    stack.defer(() =>
      envd.close(new TorporError('guest_unreachable', 'The benchmark has finished.')),
    );
    const host = stack.use(await plainServerOnHost());
    const guestUrl = await plainServerInGuest(platform, sandbox);
    const perMiB = async (action: () => Promise<unknown>) => (await timed(action)) / (size / MIB);
    const whole = async (chunks: AsyncIterable<Uint8Array>) => {
      let bytes = 0;
      for await (const chunk of chunks) bytes += chunk.length;
      if (bytes !== size) throw new Error(`${bytes} of ${size} bytes came.`);
    };
    const uploads = {
      'upload-api': () => sandbox.files.write('api', chunksOf(content)),
      'upload-envd': () => envd.writeFile({ path: 'envd' }, chunksOf(content)),
      'upload-guest': () => upload(`${guestUrl}/plain`, content),
      'upload-host': () => upload(`${host.url}/plain`, content),
    };
    const fromEnvd = (encoding: string) =>
      download(`${endpoint.baseUrl}/files?path=envd`, whole, {
        'x-access-token': endpoint.accessToken,
        'accept-encoding': encoding,
      });
    // A download may be measured first.
    for (const send of Object.values(uploads)) await send();
    await interleave(context, rounds, {
      ...mapValues(uploads, (send) => () => perMiB(send)),
      'download-api': () => perMiB(async () => whole(await sandbox.files.readStream('api'))),
      'download-envd': () => perMiB(() => whole(envd.readFile({ path: 'envd' }))),
      'download-plain': () => perMiB(() => fromEnvd('identity')),
      'download-gzip': () => perMiB(() => fromEnvd('gzip')),
      'download-guest': () => perMiB(() => download(`${guestUrl}/plain`, whole)),
      'download-host': () => perMiB(() => download(`${host.url}/plain`, whole)),
    });
  },
};

function mapValues<K extends string, A, B>(
  record: Readonly<Record<K, A>>,
  change: (value: A) => B,
): Record<K, B> {
  const entries = Object.entries<A>(record).map(([key, value]) => [key, change(value)]);
  return Object.fromEntries(entries);
}

function costsOf(measured: Measurements, direction: string): Cost[] {
  const of = (path: string) => measured.median(`${direction}-${path}`);
  const part = (title: string, value: number, how: string): Cost => ({
    title,
    value: Math.max(0, value),
    unit: 'ms',
    how,
  });
  return [
    part('client and server in Node, as on any machine', of('host'), 'plain server on the host'),
    part(
      'the guest: emulated processor, network and disk',
      of('guest') - of('host'),
      'plain server in the guest − on the host',
    ),
    part(
      "envd's own work",
      of('envd') - of('guest'),
      'straight to envd − plain server in the guest',
    ),
    part(
      'control plane and host agent',
      of('api') - of('envd'),
      'through the API − straight to envd',
    ),
  ];
}

function chunksOf(content: Buffer): Readable {
  const chunks: Buffer[] = [];
  for (let at = 0; at < content.length; at += CHUNK_BYTES) {
    chunks.push(content.subarray(at, at + CHUNK_BYTES));
  }
  return Readable.from(chunks, { objectMode: false });
}

async function upload(url: string, content: Buffer): Promise<void> {
  const { statusCode, body } = await request(url, { method: 'POST', body: chunksOf(content) });
  await body.dump();
  if (statusCode !== 204) throw new Error(`The plain server returned ${statusCode}.`);
}

async function download(
  url: string,
  take: (chunks: AsyncIterable<Uint8Array>) => Promise<void>,
  headers: Record<string, string> = {},
): Promise<void> {
  const { body } = await request(url, { headers });
  await take(body);
}

async function plainServerOnHost(): Promise<AsyncDisposable & { readonly url: string }> {
  await using stack = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-bench-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const child = spawn(process.execPath, [PLAIN_SERVER, directory, '0'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  stack.defer(async () => {
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  });
  const [port] = await once(child.stdout, 'data');
  const kept = stack.move();
  return {
    url: `http://127.0.0.1:${String(port).trim()}`,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

async function plainServerInGuest(platform: Platform, sandbox: Sandbox): Promise<string> {
  await sandbox.files.write('plain-server.mjs', await readFile(PLAIN_SERVER));
  await sandbox.start('node', ['plain-server.mjs', '.', String(GUEST_PORT)]);
  const url = platform.guestUrl(sandbox, GUEST_PORT);
  const deadline = performance.now() + START_TIMEOUT_MS;
  for (;;) {
    try {
      await download(`${url}/plain-server.mjs`, async (chunks) => {
        for await (const _ of chunks);
      });
      return url;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await delay(200);
    }
  }
}
