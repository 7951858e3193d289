/** What a mail says, but for the link of a password reset, which is made when it is sent. */
export type MailMessage =
  | {
      readonly kind: 'invitation';
      readonly team: string;
      readonly inviter: string | undefined;
      readonly link: string;
      readonly expiresAt: string;
    }
  | { readonly kind: 'password_reset' }
  | { readonly kind: 'password_changed'; readonly at: string }
  | { readonly kind: 'identity_linked'; readonly provider: string; readonly at: string }
  | { readonly kind: 'account_locked'; readonly address: string | undefined; readonly at: string };

export interface RenderedMail {
  readonly subject: string;
  /** Plain text: nothing that a user chose can be markup. */
  readonly text: string;
}

type Notice = Exclude<MailMessage, { readonly kind: 'password_reset' }>;

/** `server`: where it is, for people who use several. */
export function renderMail(message: Notice, server: string): RenderedMail {
  const { subject, lines } = contentOf(message);
  return { subject, text: `${[...lines, '', `Torpor at ${server}`].join('\n')}\n` };
}

export function renderReset(link: string, server: string): RenderedMail {
  const lines = [
    'Somebody asked for a new password for your account. This link sets one, once,',
    'within an hour:',
    '',
    link,
    '',
    'If it was not you, ignore this mail: your password is as it was.',
    '',
    `Torpor at ${server}`,
  ];
  return { subject: 'Set a new password', text: `${lines.join('\n')}\n` };
}

function contentOf(message: Notice): { readonly subject: string; readonly lines: string[] } {
  switch (message.kind) {
    case 'invitation': {
      const { team, inviter, link, expiresAt } = message;
      const who = inviter === undefined ? 'You are invited' : `${oneLine(inviter)} invites you`;
      return {
        subject: 'Invitation to a team',
        lines: [
          `${who} to the team "${oneLine(team)}". To join it, open`,
          '',
          link,
          '',
          `or join with it on the command line. It works once, until ${expiresAt}.`,
          'If you do not know what this is about, ignore it.',
        ],
      };
    }
    case 'password_changed':
      return {
        subject: 'Your password was changed',
        lines: [
          `The password of your account was changed at ${message.at}. Its other sessions have ended.`,
          'If it was not you, ask the operator of the server to disable the account.',
        ],
      };
    case 'identity_linked':
      return {
        subject: 'A new way to log in',
        lines: [
          `Since ${message.at} your account can be logged in to with ${oneLine(message.provider)}.`,
          'If it was not you, change your password, and remove this way to log in from your account.',
        ],
      };
    case 'account_locked':
      return {
        subject: 'Too many attempts to log in',
        lines: [
          `At ${message.at} the password of your account had been tried too often${
            message.address === undefined ? '' : ` from ${message.address}`
          }.`,
          'More attempts from there are refused for a while. If it was not you, you need not do anything,',
          'as long as the password is one that nobody can guess.',
        ],
      };
  }
}

/** Names are of one line, so that they cannot look like a part of the mail. */
function oneLine(name: string): string {
  return name.replaceAll(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ').slice(0, 100);
}
