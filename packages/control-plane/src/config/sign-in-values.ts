/** Values of the settings of logins and mail. */
import { InvalidValueError } from './values.ts';

const LOOPBACK = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])$/;

/** A service that users log in with: over HTTPS, but for one on this machine. Without the `/` at its end. */
export function providerUrl(text: string): string {
  const url = URL.parse(text);
  const isProtected =
    url?.protocol === 'https:' || (url?.protocol === 'http:' && LOOPBACK.test(url.hostname));
  if (url !== null && isProtected && url.search + url.hash + url.username === '') {
    return text.replace(/\/$/, '');
  }
  throw new InvalidValueError('It must be an address such as https://id.example.com.');
}

/** `smtp://USER:PASSWORD@HOST:PORT` or `smtps://…`, the user and the port optional. */
export function smtpUrl(text: string): string {
  const url = URL.parse(text);
  const hasForm =
    url !== null &&
    /^smtps?:$/.test(url.protocol) &&
    url.hostname !== '' &&
    /^\/?$/.test(url.pathname) &&
    url.search + url.hash === '' &&
    (url.username === '') === (url.password === '');
  if (hasForm) return text;
  throw new InvalidValueError(
    'It must be a URL such as smtp://user:password@mail.example.com:587, with special characters of the password percent-encoded.',
  );
}

/** `name@example.com`, or `Name <name@example.com>`. */
export function mailAddress(text: string): string {
  const [, named] = /^[^<>@\p{Cc}",]+ <([^<>]+)>$/u.exec(text) ?? [];
  if (/^[^\s<>@",;:]+@[^\s<>@",;:]+$/.test(named ?? text)) return text;
  throw new InvalidValueError('It must be an address such as Torpor <torpor@example.com>.');
}

/** Domains of email addresses, separated by commas; in lower case. */
export function domains(text: string): string {
  const names = text.toLowerCase().split(',');
  const areDomains = names.every((name) => /^(?:[a-z0-9][a-z0-9-]*\.)+[a-z0-9-]+$/.test(name));
  if (areDomains) return names.join();
  throw new InvalidValueError('It must be domains such as example.com,example.org.');
}

/** A name for people. */
export function label(text: string): string {
  if (/^[^\p{Cc}]{1,50}$/u.test(text)) return text;
  throw new InvalidValueError('It must be 1 to 50 characters without control characters.');
}
