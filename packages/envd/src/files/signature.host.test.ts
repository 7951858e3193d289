import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { USER_HEADER } from '@torpor/protocol';
import { errorOf, FilesServer, TEST_USER } from '@torpor/testkit/envd';
import { beforeEach, describe, expect, it } from 'vitest';
import { signatureOf } from './index.ts';

const files = FilesServer.forEachTest();

describe('authorization', () => {
  const token = 'secret-token';

  beforeEach(() => {
    files.guest.context.accessToken.set(token);
  });

  const signed = (
    path: string,
    operation: 'read' | 'write',
    extra: { username?: string; expiration?: number } = {},
  ) => {
    const username = extra.username ?? '';
    const signature = signatureOf(
      { path, operation, username, expiration: extra.expiration },
      token,
    );
    return files.url(path, {
      signature,
      ...(extra.username === undefined ? {} : { username }),
      ...(extra.expiration === undefined ? {} : { signature_expiration: `${extra.expiration}` }),
    });
  };
  const now = () => Math.floor(Date.now() / 1000);

  it('accepts the token and valid signatures', async () => {
    const path = join(files.directory, 'file');
    expect((await files.put(path, 'x', { 'x-access-token': token })).status).toBe(200);
    expect((await fetch(signed(path, 'read'))).status).toBe(200);
    expect((await fetch(signed(path, 'read', { expiration: now() + 60 }))).status).toBe(200);
    const body = new FormData();
    body.append('file', 'content');
    const upload = await fetch(signed('hello.txt', 'write', { username: 'alice' }), {
      method: 'POST',
      body,
    });
    expect(await upload.json()).toMatchObject([{ path: join(files.guest.home, 'hello.txt') }]);
  });

  it('takes the user of a signed request from the signed parameters', async () => {
    const path = join(files.directory, 'file');
    const upload = await fetch(signed(path, 'write', { username: 'alice' }), {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream', [USER_HEADER]: 'root' },
      body: 'x',
    });
    expect(upload.status).toBe(200);
    expect((await stat(path)).uid).toBe(TEST_USER.uid);
  });

  it('refuses everything else, and writes nothing then', async () => {
    const path = join(files.directory, 'file');
    const message = async (response: Promise<Response>) => {
      const refusal = await response;
      return [refusal.status, (await errorOf(refusal)).message];
    };
    expect(await message(files.put(path, 'x'))).toEqual([401, 'missing signature query parameter']);
    expect(await message(files.put(path, 'x', { 'x-access-token': 'wrong' }))).toEqual([
      401,
      'access token present in header but does not match',
    ]);
    expect(await message(fetch(files.url(path, { signature: 'v1_x' })))).toEqual([
      401,
      'invalid signature',
    ]);
    expect(await message(fetch(signed(path, 'write')))).toEqual([401, 'invalid signature']);
    const later = signed(path, 'read', { expiration: now() - 5 });
    expect(await message(fetch(later))).toEqual([401, 'signature is already expired']);
    const extended = later.replace(
      /signature_expiration=\d+/,
      `signature_expiration=${now() + 99}`,
    );
    expect(await message(fetch(extended))).toEqual([401, 'invalid signature']);
    expect(await readdir(files.directory)).toEqual([]);
  });

  it('signs as the SDK does', () => {
    // sha256("a/b:read::secret-token"), base64 without padding.
    const digest = createHash('sha256').update('a/b:read::secret-token').digest('base64');
    expect(signatureOf({ path: 'a/b', operation: 'read', username: '' }, token)).toBe(
      `v1_${digest.slice(0, 43)}`,
    );
  });
});
