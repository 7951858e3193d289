import { randomBytes } from 'node:crypto';
import type { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sandboxOf, type TargetSource } from './harness.ts';

/** Upload and download URLs of the official client. The target must have an access token. */
export function describeSignedUrls(targetOf: TargetSource): void {
  describe('signed URLs', () => {
    let sandbox: Sandbox;
    let directory: string;

    beforeAll(async () => {
      sandbox = sandboxOf(targetOf());
      directory = `${targetOf().workdir}/signed-${randomBytes(4).toString('hex')}`;
      await sandbox.files.makeDir(directory);
    });

    afterAll(async () => {
      await sandbox.files.remove(directory);
    });

    const at = (name: string) => `${directory}/${name}`;

    const post = (url: string, content: string) => {
      const body = new FormData();
      body.append('file', content);
      return fetch(url, { method: 'POST', body });
    };

    it('download without the token', async () => {
      await sandbox.files.write(at('down'), 'downloaded');
      const response = await fetch(await sandbox.downloadUrl(at('down')));
      expect([response.status, await response.text()]).toEqual([200, 'downloaded']);
    });

    it('upload a part without a name to the path of the URL', async () => {
      const response = await post(await sandbox.uploadUrl(at('up')), 'uploaded');
      expect(await response.json()).toEqual([{ name: 'up', path: at('up'), type: 'file' }]);
      expect(await sandbox.files.read(at('up'))).toBe('uploaded');
    });

    it('upload for the user that the URL names', async () => {
      const url = await sandbox.uploadUrl(at('of-root'), { user: 'root' });
      expect((await post(url, 'x')).status).toBe(200);
      expect((await sandbox.files.getInfo(at('of-root'))).owner).toBe('root');
    });

    it('work until they expire', async () => {
      await sandbox.files.write(at('timed'), 'x');
      const valid = await sandbox.downloadUrl(at('timed'), { useSignatureExpiration: 120 });
      expect((await fetch(valid)).status).toBe(200);
      const expired = await sandbox.downloadUrl(at('timed'), { useSignatureExpiration: -120 });
      const response = await fetch(expired);
      expect(await response.json()).toEqual({
        code: 401,
        message: 'signature is already expired',
      });
    });

    it('are invalid for another path, operation, user or time', async () => {
      await sandbox.files.write(at('one'), '1');
      await sandbox.files.write(at('two'), '2');
      const changed = async (url: string, change: (query: URLSearchParams) => void) => {
        const altered = new URL(url);
        change(altered.searchParams);
        return altered;
      };
      const url = await sandbox.downloadUrl(at('one'), { useSignatureExpiration: 60 });
      const urls = [
        await changed(url, (query) => query.set('path', at('two'))),
        await changed(url, (query) => query.set('username', 'root')),
        await changed(url, (query) => query.set('signature_expiration', '99999999999')),
        await changed(url, (query) => query.delete('signature_expiration')),
        await changed(await sandbox.uploadUrl(at('one')), () => undefined),
      ];
      for (const each of urls) {
        const response = await fetch(each);
        expect(await response.json()).toEqual({ code: 401, message: 'invalid signature' });
      }
      const unsigned = await changed(url, (query) => query.delete('signature'));
      expect(await (await fetch(unsigned)).json()).toEqual({
        code: 401,
        message: 'missing signature query parameter',
      });
    });

    it('give access only to files', async () => {
      const { searchParams } = new URL(await sandbox.downloadUrl('/etc/hostname'));
      const response = await fetch(`${targetOf().url}/envs?${searchParams}`);
      expect(response.status).toBe(401);
    });
  });
}
