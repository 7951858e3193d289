import { rest } from '@torpor/protocol';
import { html } from 'hono/html';
import type { Provider } from '../../identities/provider.ts';

export function hidden(name: string, value: string) {
  return html`<input type="hidden" name="${name}" value="${value}">`;
}

/** A button that sends the browser to each provider. `fields`: what else the form has. */
export function providerForms(
  providers: readonly Provider[],
  verb: string,
  fields: Readonly<Record<string, string>>,
) {
  return providers.map(
    ({ id, name }) => html`<form method="post" action="/login/provider">
${hidden('provider', id)}
${Object.entries(fields).map(([field, value]) => hidden(field, value))}
<button>${verb} ${name}</button>
</form>
`,
  );
}

export function passwordLoginForm(returnTo: string) {
  return html`<form method="post" action="/login">
${hidden('return_to', returnTo)}
<label for="email">Email address</label>
<input id="email" name="email" type="email" autocomplete="username" required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button>
</form>
`;
}

export function newPasswordField() {
  return html`<label for="new_password">New password</label>
<input id="new_password" name="new_password" type="password" autocomplete="new-password"
 minlength="${rest.MIN_PASSWORD_LENGTH}" maxlength="${rest.MAX_PASSWORD_LENGTH}" required>
`;
}

export function tokenField(what: string) {
  return html`<label for="token">${what}</label>
<input id="token" name="token" autocomplete="off" spellcheck="false" required>
`;
}
