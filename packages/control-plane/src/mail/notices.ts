import type { EventConsumer } from '../events/delivery.ts';
import type { DeliverableEvent } from '../events/outbox.ts';
import type { MailMessage } from './message.ts';
import type { MailQueue } from './queue.ts';

/** Consumes events: tells users of what others could do with their accounts. */
export function noticesTo(queue: MailQueue): EventConsumer {
  return async (transaction, events) => {
    if (!queue.isEnabled) return;
    for (const event of events) {
      const message = noticeOf(event);
      if (message === undefined) continue;
      const user = await transaction
        .selectFrom('users')
        .select('email')
        .where('id', '=', event.resource)
        .where('status', '=', 'active')
        .executeTakeFirst();
      if (user !== undefined) await queue.add(transaction, user.email, message);
    }
  };
}

function noticeOf({ kind, metadata, created_at }: DeliverableEvent): MailMessage | undefined {
  const at = created_at.toISOString();
  switch (kind) {
    case 'user.change_password':
      return { kind: 'password_changed', at };
    case 'user.link_identity':
      return { kind: 'identity_linked', provider: metadata.provider ?? '', at };
    case 'user.lock':
      return { kind: 'account_locked', address: metadata.address, at };
    default:
      return undefined;
  }
}
