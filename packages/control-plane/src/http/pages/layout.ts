import { createHash } from 'node:crypto';
import type { Context } from 'hono';
import { html, raw } from 'hono/html';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import type { AppEnvironment } from '../environment.ts';

type Html = ReturnType<typeof html>;

const STYLE =
  'body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:3rem auto;padding:0 1rem}label,input,button{display:block;margin:.3rem 0;font:inherit}input{width:100%;box-sizing:border-box;padding:.3rem}button{padding:.3rem 1rem}code{font-size:1.3em}.error{color:#a00}';

/** Puts what is behind the `#` of a link into the form, and out of the address. Without scripts the user pastes it. */
const TAKE_TOKEN =
  "const f=document.querySelector('input[name=token]');if(location.hash.length>1){f.value=location.hash.slice(1);history.replaceState(null,'',location.pathname)}";

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** Nothing but this server's own form may be sent, nothing is loaded, and no other page may show it in a frame. */
const POLICY = [
  "default-src 'none'",
  `style-src ${hashOf(STYLE)}`,
  `script-src ${hashOf(TAKE_TOKEN)}`,
  "form-action 'self'",
  "frame-ancestors 'none'",
  "base-uri 'none'",
].join('; ');

const HEADERS = {
  'Content-Security-Policy': POLICY,
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'same-origin',
  'Cache-Control': 'no-store',
};

export interface Page {
  readonly title: string;
  readonly body: Html | readonly Html[];
  readonly status?: ContentfulStatusCode;
  /** Where the browser goes by itself. A redirect after a form may not leave the server, because of `form-action`. */
  readonly goTo?: string;
  /** Has a field `token` that a link fills. */
  readonly takesToken?: true;
}

export async function respondWithPage(
  c: Context<AppEnvironment>,
  { title, body, status = 200, goTo, takesToken }: Page,
): Promise<Response> {
  const refresh =
    goTo === undefined ? '' : html`<meta http-equiv="refresh" content="0;url=${goTo}">`;
  const script = takesToken === true ? raw(`<script>${TAKE_TOKEN}</script>`) : '';
  const page = await html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
${refresh}
<title>${title} – Torpor</title>
<style>${raw(STYLE)}</style>
</head>
<body>
<h1>${title}</h1>
${body}
${script}
</body>
</html>
`;
  return c.html(page, status, HEADERS);
}
