import type { Kysely } from 'kysely';
import type { SecretBox } from '../auth/secret-box.ts';
import type { Database } from '../database/schema.ts';
import { type LinkedPage, pageLink } from './link.ts';
import type { MailMessage } from './message.ts';

const PURPOSE = 'mail';

/** Mail that is to be sent: rows, written in the transaction of what they are about. */
export class MailQueue {
  readonly #secrets: SecretBox;
  readonly #publicUrl: string | undefined;

  /** `publicUrl`: where links in mail lead; undefined if no mail is sent, and nothing is queued. */
  constructor(secrets: SecretBox, publicUrl: string | undefined) {
    this.#secrets = secrets;
    this.#publicUrl = publicUrl;
  }

  get isEnabled(): boolean {
    return this.#publicUrl !== undefined;
  }

  /** Never made from the host name of a request, which whoever sends it can choose. */
  link(page: LinkedPage, token: string): string {
    return pageLink(this.#publicUrl ?? '', page, token);
  }

  async add(db: Kysely<Database>, recipient: string, message: MailMessage): Promise<void> {
    if (!this.isEnabled) return;
    const sealed = this.#secrets.seal(PURPOSE, JSON.stringify(message));
    await db
      .insertInto('mails')
      .values({ recipient, kind: message.kind, sealed, last_error: null, finished_at: null })
      .execute();
  }

  /** What was queued. */
  open(sealed: string): MailMessage {
    return JSON.parse(this.#secrets.open(PURPOSE, sealed)) as MailMessage;
  }
}
