import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { Api } from './endpoint.ts';
import { errorPage } from './error-page.ts';

const ASSETS = {
  'swagger-ui.css': 'text/css; charset=utf-8',
  'swagger-ui-bundle.js': 'text/javascript; charset=utf-8',
  'favicon-32x32.png': 'image/png',
} as const;

/** Nothing from elsewhere may run or be loaded; Swagger UI sets styles on elements. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Torpor API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;

const START = `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#swagger-ui',
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
`;

/** The interactive page of the API, from the files of the npm package `swagger-ui-dist`, and the table of errors. */
export function addDocsRoutes(api: Api): void {
  const directory = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));
  const headers = {
    'Content-Security-Policy': CONTENT_SECURITY_POLICY,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
  };
  api.get('/docs', (c) => {
    c.set('route', '/docs');
    return c.html(PAGE, 200, headers);
  });
  api.get('/docs/errors', (c) => {
    c.set('route', '/docs/errors');
    return c.html(errorPage(), 200, headers);
  });
  api.get('/docs/start.js', (c) => {
    c.set('route', '/docs/start.js');
    return c.body(START, 200, { ...headers, 'Content-Type': 'text/javascript; charset=utf-8' });
  });
  for (const [name, type] of Object.entries(ASSETS)) {
    api.get(`/docs/${name}`, async (c) => {
      c.set('route', `/docs/${name}`);
      return c.body(new Uint8Array(await readFile(join(directory, name))), 200, {
        ...headers,
        'Content-Type': type,
        'Cache-Control': 'max-age=3600',
      });
    });
  }
}
