import { describe, expect, test } from 'vitest';
import { DEFAULT_MIRRORS, parseMirrors } from './apt-sources.ts';

describe('parseMirrors', () => {
  test("finds Debian's archives among others", () => {
    const output = [
      'Docker CE|bookworm|https://download.docker.com/linux/debian/',
      'Debian|trixie|http://mirror.example/debian/',
      'Debian-Security|trixie-security|http://mirror.example/security/',
      'Debian Backports|trixie-backports|http://backports.example/debian/',
    ].join('\n');
    expect(parseMirrors(output)).toEqual({
      debian: 'http://mirror.example/debian',
      security: 'http://mirror.example/security',
    });
  });

  test.each([
    '',
    'nonsense',
    'Ubuntu|noble|http://archive.ubuntu.com/ubuntu/',
    'Debian|x|file:/srv',
  ])("falls back to Debian's own for %j", (output) => {
    expect(parseMirrors(output)).toEqual(DEFAULT_MIRRORS);
  });
});
