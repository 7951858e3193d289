/**
 * What events tell of, by type: the kind of the resource and the action. Every one is in the
 * audit log, except for `sandbox.state`.
 */
export const EVENT_TYPES = {
  'sandbox.create': 'a sandbox was created',
  'sandbox.destroy': 'it was destroyed, by a request or at the end of its time to live',
  'sandbox.pause': 'it was paused, by a request or when it was idle',
  'sandbox.resume': 'it was resumed',
  'sandbox.fork': 'it was created as a copy of another one',
  'sandbox.adopt': 'a host had it, and the database did not',
  'sandbox.fail': 'its VMM exited, or its host does not have it',
  'sandbox.lose': 'its host does not respond',
  'sandbox.find': 'its host responds again, and still has it',
  'sandbox.state': 'it came to a state in which it stays, which is in `metadata`',
  'snapshot.create': 'a snapshot was created or replaced',
  'snapshot.delete': 'a snapshot was deleted',
  'host.create': 'a host was added',
  'host.update': 'a host was changed',
  'host.delete': 'a host was deleted',
  'host.up': 'a host responds, for the first time or again',
  'host.down': 'a host has not sent a heartbeat for a while',
  'api_key.create': 'an API key was created',
  'api_key.revoke': 'an API key was revoked',
  'webhook.create': 'a webhook was created',
  'webhook.update': 'a webhook was changed',
  'webhook.delete': 'a webhook was deleted',
  'webhook.redeliver': 'what a webhook had given up was queued again',
  'user.create': 'a user signed up, or was made',
  'user.update': 'a user was changed',
  'user.delete': 'a user was deleted',
  'user.login': 'a user logged in, or failed to',
  'user.logout': 'a user logged out',
  'user.lock': 'the password of a user was tried too often',
  'user.change_password': 'the password of a user was changed',
  'user.create_link': 'an operator, or the user by mail, got a link that sets a password',
  'user.link_identity': 'a user can log in with another service',
  'user.unlink_identity': 'a user can no longer log in with another service',
  'session.revoke': 'a session of a user was ended',
  'team.create': 'a team was created',
  'team.update': 'a team was changed',
  'team.delete': 'a team was deleted',
  'member.add': 'a user joined a team',
  'member.update': 'the role of a member was changed',
  'member.remove': 'a member was removed',
  'member.leave': 'a member left',
  'invitation.create': 'somebody was invited to a team',
  'invitation.revoke': 'an invitation was revoked',
  'team.set_quotas': 'the quotas of a team were changed',
} as const;

export type EventType = keyof typeof EVENT_TYPES;

/** Whether events can match it: a type, or a kind of resource and `.*`. */
export function isEventPattern(text: string): boolean {
  if (!text.endsWith('.*')) return Object.hasOwn(EVENT_TYPES, text);
  return Object.keys(EVENT_TYPES).some((type) => type.startsWith(text.slice(0, -1)));
}
