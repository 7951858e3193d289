import { createConnection } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ENVD_VERSION, type Envd, startEnvd } from './index.ts';

let open: Envd;
let guarded: Envd;

beforeAll(async () => {
  open = await startEnvd({ port: 0 });
  guarded = await startEnvd({ port: 0, accessToken: 'the secret' });
});

afterAll(async () => {
  await open.close();
  await guarded.close();
});

const call = (envd: Envd, path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(`http://127.0.0.1:${envd.port}${path}`, init);

const token = { 'X-Access-Token': 'the secret' };
const list = (headers: Record<string, string> = {}): RequestInit => ({
  method: 'POST',
  body: '{}',
  headers: { 'Content-Type': 'application/json', ...headers },
});

it('has a version that enables all features of the clients', () => {
  const [major = 0, minor = 0, patch = 0] = ENVD_VERSION.split('.').map(Number);
  expect(major * 1e6 + minor * 1e3 + patch).toBeGreaterThanOrEqual(6004);
});

describe('the access token', () => {
  it('is not required by the health check', async () => {
    expect((await call(guarded, '/health')).status).toBe(204);
  });

  it.each([
    ['/metrics', {}],
    ['/envs', {}],
    ['/files/compose', { method: 'POST', body: '{}' }],
    ['/process.Process/List', list()],
    ['/filesystem.Filesystem/Stat', list()],
    ['/no/such/path', {}],
  ] as [string, RequestInit][])('is required by %s', async (path, init) => {
    for (const headers of [{}, { 'X-Access-Token': 'the secre' }, { 'X-Access-Token': '' }]) {
      const response = await call(guarded, path, {
        ...init,
        headers: { ...(init.headers as Record<string, string>), ...headers },
      });
      expect(response.status).toBe(401);
      expect(await response.json()).toEqual({
        code: 401,
        message:
          'unauthorized access, please provide a valid access token or method signing if supported',
      });
    }
    const allowed = await call(guarded, path, {
      ...init,
      headers: { ...(init.headers as Record<string, string>), ...token },
    });
    expect(allowed.status).not.toBe(401);
  });

  it('grants access to the services', async () => {
    const response = await call(guarded, '/process.Process/List', list(token));
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({});
  });

  it('is not required before one is set', async () => {
    expect((await call(open, '/process.Process/List', list())).status).toBe(200);
  });
});

describe('the routes', () => {
  it('report the load of the machine', async () => {
    const response = await call(open, '/metrics');
    const report = (await response.json()) as Record<string, number>;
    expect(Object.keys(report).sort()).toEqual([
      'cpu_count',
      'cpu_used_pct',
      'disk_total',
      'disk_used',
      'mem_cache',
      'mem_total',
      'mem_used',
      'ts',
    ]);
    expect(report.cpu_used_pct).toBeGreaterThanOrEqual(0);
    expect(report.cpu_used_pct).toBeLessThanOrEqual(100);
    expect(report.mem_used).toBeLessThan(report.mem_total ?? 0);
    expect(report.disk_used).toBeLessThan(report.disk_total ?? 0);
    expect(Math.abs(Date.now() / 1000 - (report.ts ?? 0))).toBeLessThan(60);
  });

  it('respond to an unknown path with 404 and a wrong method with 405', async () => {
    expect((await call(open, '/freeze', { method: 'POST' })).status).toBe(404);
    expect((await call(open, '/process.Process/Nothing', list())).status).toBe(404);
    expect((await call(open, '/metrics', { method: 'POST' })).status).toBe(405);
    expect((await call(open, '/init')).status).toBe(405);
  });

  it.each(['/metrics?x=1', '/health'])('find %s', async (path) => {
    expect((await call(open, path)).ok).toBe(true);
  });

  it('say how long a response took to begin, if the request is traced', async () => {
    const traceparent = `00-${'1'.repeat(32)}-${'2'.repeat(16)}-01`;
    const timing = async (path: string, init: RequestInit) =>
      (await call(open, path, init)).headers.get('server-timing');
    for (const path of ['/process.Process/List', '/no/such/path']) {
      expect(await timing(path, list())).toBeNull();
      expect(await timing(path, list({ traceparent }))).toMatch(/^envd;dur=\d+\.\d$/);
    }
    expect(await timing('/metrics', { headers: { traceparent } })).toMatch(/^envd;dur=/);
  });

  it('refuse a malformed message', async () => {
    const init = { ...list(), body: '{"process": 17' };
    const response = await call(open, '/process.Process/SendSignal', init);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: 'invalid_argument' });
  });

  it('survive what is not HTTP', async () => {
    const socket = createConnection(open.port, '127.0.0.1');
    socket.write('\x16\x03\x01 nonsense\r\n\r\n');
    await new Promise((resolve) => socket.on('error', resolve).on('close', resolve).resume());
    expect((await call(open, '/health')).status).toBe(204);
  });
});

describe('cross-origin requests', () => {
  it('may send a preflight request with any header, without the token', async () => {
    const response = await call(guarded, '/process.Process/Start', {
      method: 'OPTIONS',
      headers: {
        Origin: 'https://example.org',
        'Access-Control-Request-Method': 'POST',
        'Access-Control-Request-Headers': 'x-access-token,connect-timeout-ms',
      },
    });
    expect(response.status).toBe(204);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'access-control-allow-origin': '*',
      'access-control-allow-headers': 'x-access-token,connect-timeout-ms',
      'access-control-max-age': '7200',
    });
    expect(response.headers.get('access-control-allow-methods')).toContain('POST');
  });

  it('may read the response, also a refusal', async () => {
    for (const path of ['/health', '/metrics']) {
      const response = await call(guarded, path, { headers: { Origin: 'https://example.org' } });
      expect(response.headers.get('access-control-allow-origin')).toBe('*');
      expect(response.headers.get('access-control-expose-headers')).toContain('Location');
    }
  });
});

it('kills its processes and closes connections when it is closed', async () => {
  const envd = await startEnvd({ port: 0 });
  const message = Buffer.from(JSON.stringify({ process: { cmd: 'sleep', args: ['600'] } }));
  const header = Buffer.alloc(5);
  header.writeUInt32BE(message.length, 1);
  const response = await call(envd, '/process.Process/Start', {
    method: 'POST',
    headers: { 'Content-Type': 'application/connect+json' },
    body: Buffer.concat([header, message]),
  });
  const reader = response.body?.getReader();
  const first = Buffer.from((await reader?.read())?.value ?? []).toString();
  const pid = Number(/"pid":(\d+)/.exec(first)?.[1]);
  expect(process.kill(pid, 0)).toBe(true);
  await envd.close();
  await expect.poll(() => isAlive(pid)).toBe(false);
  await expect(reader?.closed).rejects.toThrow();
});

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
