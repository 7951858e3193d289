import type { Api } from './endpoint.ts';

const LINKS = { docs: '/docs', openapi: '/openapi.json', health: '/health', metrics: '/metrics' };

/** `/`: says what this server is, to a browser as a page and to everything else as JSON. */
export function addHomeRoute(api: Api, version: string): void {
  api.get('/', (c) => {
    c.set('route', '/');
    c.header('Vary', 'Accept');
    const wantsPage = (c.req.header('accept') ?? '').includes('text/html');
    if (!wantsPage) return c.json({ name: 'Torpor', version, ...LINKS });
    return c.html(page(version), 200, {
      'Content-Security-Policy': "default-src 'none'; style-src 'unsafe-inline'",
      'X-Content-Type-Options': 'nosniff',
    });
  });
}

function page(version: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Torpor</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>
</head>
<body>
<h1>Torpor ${version}</h1>
<p>This is the API of a Torpor server, which runs code in microVM sandboxes.</p>
<ul>
<li><a href="${LINKS.docs}">API reference</a> (<a href="${LINKS.openapi}">OpenAPI</a>)</li>
<li><a href="${LINKS.health}">Health</a></li>
<li><a href="${LINKS.metrics}">Metrics</a></li>
</ul>
<p>On the machine that runs it, <code>torpor env</code> prints the API key.</p>
</body>
</html>
`;
}
