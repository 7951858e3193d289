import { describe, expect, test } from 'vitest';
import { mailOf, providersOf } from './combined.ts';
import { loadConfig } from './config.ts';

const load = (env: Record<string, string>) => loadConfig({ env, configFile: '/dev/null' });

describe.each<[string, readonly string[], readonly string[]]>([
  [
    'TORPOR_OIDC_ISSUER',
    [
      'https://id.example.com',
      'https://id.example.com/realms/a',
      'http://127.0.0.1:80',
      'http://[::1]',
    ],
    [
      'http://id.example.com',
      'http://127.0.0.1.evil.test',
      'id.example.com',
      'https://u@x.test',
      'https://x.test?a',
      'ftp://x',
    ],
  ],
  [
    'TORPOR_SMTP_URL',
    ['smtp://mail', 'smtps://u:p%40@mail.example.com:465/', 'smtp://[::1]:2525'],
    [
      'http://mail',
      'smtp://',
      'mail.example.com:25',
      'smtp://u@mail',
      'smtp://mail/x',
      'smtp://mail?pool=true',
    ],
  ],
  [
    'TORPOR_MAIL_FROM',
    ['a@example.com', 'Torpor <a@example.com>', 'Ünïcode Co. <a@x>'],
    [
      'a',
      'Torpor',
      'a@b, c@d',
      'T <a@b> <c@d>',
      '"x" <a@b>',
      'a b@c',
      'T <a@b',
      'T\r\nBcc: x@y <a@b>',
    ],
  ],
  [
    'TORPOR_SIGN_UP_DOMAINS',
    ['example.com', 'A.test,b.test'],
    ['com', '@example.com', 'a.test b.test', 'a.test,', '*.test'],
  ],
])('%s', (variable, valid, invalid) => {
  test.each(valid)('accepts %j', async (text) => {
    await expect(load({ [variable]: text })).resolves.toBeDefined();
  });
  test.each(invalid)('refuses %j', async (text) => {
    await expect(load({ [variable]: text })).rejects.toMatchObject({ code: 'invalid_request' });
  });
});

test('secrets of providers and of the mail server are not shown', async () => {
  const { entries } = await load({
    TORPOR_GITHUB_CLIENT_SECRET: 'hush-github',
    TORPOR_OIDC_CLIENT_SECRET: 'hush-oidc',
    TORPOR_SMTP_URL: 'smtp://torpor:hush-smtp@mail.example.com',
  });
  expect(JSON.stringify(entries)).not.toContain('hush');
  const shown = entries.find(({ name }) => name === 'smtp_url')?.value;
  expect(shown).toBe('smtp://torpor:***@mail.example.com');
});

const COMPLETE = {
  TORPOR_PUBLIC_URL: 'https://torpor.test',
  TORPOR_GITHUB_CLIENT_ID: 'id',
  TORPOR_GITHUB_CLIENT_SECRET: 'secret',
  TORPOR_OIDC_ISSUER: 'https://id.test',
  TORPOR_OIDC_CLIENT_ID: 'id',
  TORPOR_OIDC_CLIENT_SECRET: 'secret',
  TORPOR_SMTP_URL: 'smtp://mail',
  TORPOR_MAIL_FROM: 'a@b.test',
};

test('settings that belong together are used together', async () => {
  const none = (await load({})).config;
  expect([mailOf(none), providersOf(none)]).toEqual([undefined, {}]);
  const { config } = await load(COMPLETE);
  expect(mailOf(config)).toEqual({ smtpUrl: 'smtp://mail', from: 'a@b.test' });
  expect(providersOf(config)).toMatchObject({
    github: { url: 'https://github.com' },
    oidc: { url: 'https://id.test', name: 'single sign-on' },
  });
});

test.each(Object.keys(COMPLETE))('without %s the others are refused', async (variable) => {
  const { config } = await load({ ...COMPLETE, [variable]: '' });
  const use = () => [mailOf(config), providersOf(config)];
  expect(use).toThrow(expect.objectContaining({ code: 'invalid_request' }));
});
