import { createTransport, type Transporter } from 'nodemailer';
import type { RenderedMail } from './message.ts';

/** Where mail goes, and from whom it is. */
export interface MailSettings {
  /** `smtp://` or `smtps://`; see the setting `smtp_url`. */
  readonly smtpUrl: string;
  /** `Name <name@example.com>`, or the address alone. */
  readonly from: string;
}

const SMTP_PORT = 25;
const SUBMISSION_PORT = 587;
const SMTPS_PORT = 465;
const CONNECT_TIMEOUT_MS = 10_000;
/** How long the server may be silent. */
const SILENCE_TIMEOUT_MS = 20_000;
/** How long all of it may take. */
const TOTAL_TIMEOUT_MS = 60_000;

/** What came of sending a mail. `refused`: the server will not accept it later either. */
export type MailAttempt =
  | { readonly result: 'sent' }
  | { readonly result: 'failed' | 'refused'; readonly error: string };

/** Sends mail with SMTP. */
export class MailTransport {
  readonly #transporter: Transporter;
  readonly #from: string;
  readonly #domain: string;

  constructor({ smtpUrl, from }: MailSettings) {
    this.#transporter = createTransport(optionsOf(new URL(smtpUrl)));
    this.#from = from;
    this.#domain = from.replace(/>$/, '').split('@').at(-1) ?? 'localhost';
  }

  /** `id`: the same for each attempt, so that receivers can tell a repetition. Never throws. */
  async send(id: string, to: string, { subject, text }: RenderedMail): Promise<MailAttempt> {
    try {
      const sending = this.#transporter.sendMail({
        from: this.#from,
        to: { name: '', address: to },
        subject,
        text,
        messageId: `<torpor-${id}@${this.#domain}>`,
        headers: { 'Auto-Submitted': 'auto-generated' },
        disableFileAccess: true,
        disableUrlAccess: true,
      });
      await within(sending, TOTAL_TIMEOUT_MS);
      return { result: 'sent' };
    } catch (reason) {
      return { result: isRefusal(reason) ? 'refused' : 'failed', error: describe(reason) };
    }
  }
}

function optionsOf(url: URL) {
  const isTls = url.protocol === 'smtps:';
  const hasUser = url.username !== '';
  const isLoopback = /^(?:localhost|127\.|\[::1\])/.test(url.hostname);
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port:
      url.port === ''
        ? isTls
          ? SMTPS_PORT
          : hasUser
            ? SUBMISSION_PORT
            : SMTP_PORT
        : Number(url.port),
    secure: isTls,
    // A password is not sent in the clear, but to this machine.
    requireTLS: !isTls && hasUser && !isLoopback,
    ignoreTLS: isLoopback && !isTls,
    connectionTimeout: CONNECT_TIMEOUT_MS,
    greetingTimeout: CONNECT_TIMEOUT_MS,
    socketTimeout: SILENCE_TIMEOUT_MS,
    ...(hasUser
      ? { auth: { user: decodeURIComponent(url.username), pass: decodeURIComponent(url.password) } }
      : {}),
  };
}

async function within<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new Error(`The mail server took longer than ${timeoutMs / 1000} s.`)),
    timeoutMs,
  );
  try {
    return await Promise.race([work, promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** A recipient or content that is refused for good (RFC 5321, section 4.2.1); not a server that lets nobody in. */
function isRefusal(reason: unknown): boolean {
  if (!(reason instanceof Error) || !('responseCode' in reason) || !('code' in reason))
    return false;
  const isFinal = Number(reason.responseCode) >= 500;
  return isFinal && (reason.code === 'EENVELOPE' || reason.code === 'EMESSAGE');
}

function describe(reason: unknown): string {
  const text = reason instanceof Error ? reason.message : String(reason);
  return text.slice(0, 300);
}
