import { mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Envd, startEnvd } from '../index.ts';
import { GuestSystem, type KernelControls } from './guest-system.ts';

describe('POST /init on a plain host', () => {
  let envd: Envd;

  beforeEach(async () => {
    envd = await startEnvd({ port: 0 });
  });

  afterEach(async () => {
    await envd.close();
  });

  const post = (body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`http://127.0.0.1:${envd.port}/init`, {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
      headers,
    });

  const get = (path: string, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`http://127.0.0.1:${envd.port}${path}`, { headers });

  it('applies settings and adds to the variables of earlier calls', async () => {
    expect((await post({ envVars: { A: '1', B: '2' } })).status).toBe(204);
    expect((await post({ envVars: { B: '3' } })).status).toBe(204);
    expect(await (await get('/envs')).json()).toEqual({ A: '1', B: '3' });
  });

  it('succeeds without a body', async () => {
    expect((await post('')).status).toBe(204);
  });

  it('sets the access token once; later calls must present it', async () => {
    expect((await post({ accessToken: 'first' })).status).toBe(204);
    expect((await get('/envs')).status).toBe(401);
    expect((await get('/envs', { 'X-Access-Token': 'first' })).status).toBe(200);

    for (const body of [{}, { accessToken: 'second' }]) {
      const refused = await post(body);
      expect(refused.status).toBe(401);
      expect(await refused.json()).toMatchObject({ code: 401 });
    }
    expect((await post({ accessToken: 'first', envVars: { A: '1' } })).status).toBe(204);
    expect((await post({ accessToken: 'second' }, { 'X-Access-Token': 'first' })).status).toBe(204);
    expect((await get('/envs', { 'X-Access-Token': 'first' })).status).toBe(401);
    expect((await get('/envs', { 'X-Access-Token': 'second' })).status).toBe(200);
  });

  it.each([
    ['what is not JSON', '{', 'not JSON'],
    ['an unknown field', { surprise: 1 }, 'surprise'],
    ['a wrong type', { envVars: { A: 1 } }, 'envVars.A'],
    ['a malformed machine id', { machineId: 'XYZ' }, 'machineId'],
    ['a malformed host name', { hostname: 'a b' }, 'host name'],
    ['a malformed name server', { nameservers: ['example.org'] }, 'name server'],
    ['what it cannot do', { caBundle: 'PEM' }, 'not supported'],
  ])('refuses %s and changes nothing', async (_what, body, message) => {
    const accessToken = typeof body === 'string' ? {} : { accessToken: 'set' };
    const response = await post(typeof body === 'string' ? body : { ...body, ...accessToken });
    expect(response.status).toBe(400);
    expect(((await response.json()) as { message: string }).message).toContain(message);
    expect((await get('/envs')).status).toBe(200);
  });

  it('refuses a body over the limit', async () => {
    const response = await post({ envVars: { A: 'x'.repeat(2_000_000) } });
    expect(response.status).toBe(413);
  });

  it('does not touch the machine', async () => {
    const before = [hostname(), await readFile('/etc/hosts', 'utf8').catch(() => '')];
    const request = {
      hostname: 'never-this',
      machineId: '0'.repeat(32),
      timestamp: '2001-01-01T00:00:00Z',
    };
    expect((await post(request)).status).toBe(204);
    expect([hostname(), await readFile('/etc/hosts', 'utf8').catch(() => '')]).toEqual(before);
    expect(new Date().getFullYear()).toBeGreaterThan(2001);
  });
});

describe('GuestSystem', () => {
  let etc: string;
  let calls: string[];

  beforeAll(async () => {
    etc = await mkdtemp(join(tmpdir(), 'torpor-etc-'));
  });

  afterAll(async () => {
    await rm(etc, { recursive: true });
  });

  beforeEach(() => {
    calls = [];
  });

  /** Records the calls to the kernel: a test must not change the clock of its machine. */
  const kernel: KernelControls = {
    setClock: (timeMs) => calls.push(`clock ${timeMs}`),
    addEntropy: (bytes) => calls.push(`entropy ${bytes.length}`),
    setHostname: (name) => calls.push(`hostname ${name}`),
  };

  const text = (name: string): Promise<string> => readFile(join(etc, name), 'utf8');

  it('gives a restored guest its own clock, entropy and names', async () => {
    await writeFile(join(etc, 'hosts'), '127.0.0.1 localhost\n10.0.0.1 mine\n');
    await symlink('/nowhere/at/all', join(etc, 'resolv.conf'));
    const system = new GuestSystem({ etc, kernel });
    for (const name of ['first', 'second']) {
      system.apply({
        timestamp: '2031-02-03T04:05:06.789Z',
        entropy: Buffer.alloc(48, 7).toString('base64'),
        hostname: name,
        machineId: 'ab'.repeat(16),
        nameservers: ['1.1.1.1', 'fd00::1'],
      });
    }
    expect(calls.slice(0, 3)).toEqual([
      `clock ${Date.UTC(2031, 1, 3, 4, 5, 6, 789)}`,
      'entropy 48',
      'hostname first',
    ]);
    expect(await text('hostname')).toBe('second\n');
    const hosts = (await text('hosts')).split('\n');
    expect(hosts).toContain('10.0.0.1 mine');
    expect(hosts.filter((line) => line.startsWith('127.0.1.1'))).toEqual([
      expect.stringMatching(/^127\.0\.1\.1\tsecond\t#/),
    ]);
    expect(await text('machine-id')).toBe(`${'ab'.repeat(16)}\n`);
    expect(await text('resolv.conf')).toBe('nameserver 1.1.1.1\nnameserver fd00::1\n');
    expect((await stat(join(etc, 'hosts'))).mode & 0o777).toBe(0o644);
  });

  it('does not set a clock that is right', () => {
    new GuestSystem({ etc, kernel }).apply({ timestamp: new Date().toISOString() });
    expect(calls).toEqual([]);
  });

  it.each([
    ['clock', { timestamp: 'yesterday' }, kernel],
    ['entropy', { entropy: 'c2hvcnQ=' }, kernel],
    [
      'hostname',
      { hostname: 'x' },
      {
        ...kernel,
        setHostname: () => {
          throw new Error('EPERM');
        },
      },
    ],
  ])('reports that the step %s failed, and stops', async (step, request, controls) => {
    const system = new GuestSystem({ etc, kernel: controls });
    const apply = () => system.apply({ ...request, nameservers: ['9.9.9.9'] });
    expect(apply).toThrow(new RegExp(`^${step}: `));
    expect(await text('resolv.conf')).not.toContain('9.9.9.9');
  });
});
