import { runCommand } from '@torpor/linux';

/** The release of base images, independent of the host's. */
export const SUITE = 'bookworm';
const COMPONENT = 'main';
export const DEFAULT_MIRRORS = {
  debian: 'http://deb.debian.org/debian',
  security: 'http://deb.debian.org/debian-security',
};

/** One line of apt-get's index targets: label of the archive, code name of the release, address. */
const TARGET_FORMAT = '$(LABEL)|$(CODENAME)|$(REPO_URI)';

/**
 * The apt sources for a base image, as lines of sources.list: from the mirrors
 * that this host is configured for, so that a machine behind a proxy or with a
 * local mirror uses these, otherwise from Debian's own.
 */
export async function buildSources(): Promise<string[]> {
  const output = await runCommand('apt-get', [
    'indextargets',
    '--format',
    TARGET_FORMAT,
    'Created-By: Packages',
  ]);
  return sourceLines(parseMirrors(output));
}

/** The sources.list of the image itself: this host's mirrors may be unreachable from the sandbox's network. */
export function imageSources(): string[] {
  return sourceLines(DEFAULT_MIRRORS);
}

/** Finds Debian's archive and its security archive among apt's index targets. */
export function parseMirrors(output: string): typeof DEFAULT_MIRRORS {
  const mirrors = { ...DEFAULT_MIRRORS };
  for (const line of output.split('\n')) {
    const [label, , uri] = line.split('|');
    if (uri === undefined || !/^https?:\/\/\S+$/.test(uri)) continue;
    const address = uri.replace(/\/+$/, '');
    if (label === 'Debian') mirrors.debian = address;
    if (label === 'Debian-Security') mirrors.security = address;
  }
  return mirrors;
}

/** Options of apt for reaching its mirrors, such as proxies. */
export async function proxyOptions(): Promise<string[]> {
  const output = await runCommand('apt-config', ['dump', '--no-empty']);
  return output
    .split('\n')
    .filter((line) => /^Acquire::(?:http|https)::(?:Proxy|No-Proxy)\b.* ".+";$/.test(line));
}

function sourceLines(mirrors: typeof DEFAULT_MIRRORS): string[] {
  return [
    `deb ${mirrors.debian} ${SUITE} ${COMPONENT}`,
    `deb ${mirrors.debian} ${SUITE}-updates ${COMPONENT}`,
    `deb ${mirrors.security} ${SUITE}-security ${COMPONENT}`,
  ];
}
