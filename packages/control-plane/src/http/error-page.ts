import { ERRORS } from '@torpor/protocol';
import { html } from 'hono/html';

/** The table of errors, as a page. */
export function errorPage() {
  const rows = Object.entries(ERRORS)
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(
      ([code, { http, meaning, remedy }]) =>
        html`<tr id="${code}"><td><code>${code}</code></td><td>${http}</td><td>${meaning}</td><td>${remedy}</td></tr>
`,
    );
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Torpor API: errors</title>
<style>
body { font-family: sans-serif; margin: 2rem; }
td, th { padding: 0.4rem 0.8rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
</style>
</head>
<body>
<h1>Errors</h1>
<p>The code is stable. The header <code>X-Request-Id</code> of a response finds the request in the logs;
<code>Retry-After</code> says when to try again, where waiting may help. <a href="/docs">The API</a></p>
<table>
<tr><th>code</th><th>HTTP</th><th>meaning</th><th>what to do</th></tr>
${rows}</table>
</body>
</html>
`;
}
