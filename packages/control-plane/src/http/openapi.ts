import type { Api } from './endpoint.ts';

/** The OpenAPI 3.1 description of the whole API. The same application gives the same document. */
export function openApiDocument(api: Api, version: string) {
  return api.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'Torpor',
      version,
      description:
        'Sandboxes that are microVMs. Errors have the form `{"error":{"code","message","remedy"?}}`; the codes are stable and ' +
        '[listed](/docs/errors). Every response has the header `X-Request-Id`, that of the request if it has a usable one ' +
        '(up to 128 printable ASCII characters): it finds the request in the logs.',
      license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
    },
    externalDocs: { url: '/docs/errors', description: 'The codes of errors.' },
    servers: [{ url: '/' }],
    tags: [
      { name: 'Sandboxes', description: 'Create, find, pause, copy and destroy microVMs.' },
      { name: 'Snapshots', description: 'Save states of sandboxes, to create sandboxes from.' },
      {
        name: 'Templates',
        description:
          'What sandboxes are created from: snapshots of the team and of the platform, and images.',
      },
      { name: 'Processes', description: 'Run programs in a sandbox.' },
      { name: 'Files', description: 'Read and write the files of a sandbox.' },
      { name: 'Accounts', description: 'Users, their passwords and their sessions.' },
      { name: 'Teams', description: 'Teams, their members and invitations.' },
      { name: 'Builds', description: 'The builds behind snapshots and paused sandboxes.' },
      { name: 'System', description: 'The server itself.' },
    ],
  });
}

export function addOpenApiRoute(api: Api, version: string): void {
  api.openAPIRegistry.registerComponent('securitySchemes', 'apiKey', {
    type: 'apiKey',
    in: 'header',
    name: 'X-API-Key',
    description: 'A key `tpr_…`; the same key is accepted with the prefix `e2b_`.',
  });
  api.openAPIRegistry.registerComponent('securitySchemes', 'session', {
    type: 'http',
    scheme: 'bearer',
    description:
      'The token of a session, or an API key. The header `X-Team-Id` names the team in which the request acts, if not that of the session.',
  });
  api.openAPIRegistry.registerComponent('securitySchemes', 'sessionCookie', {
    type: 'apiKey',
    in: 'cookie',
    name: 'torpor_session',
    description: 'The session of a browser; `__Host-torpor_session` behind HTTPS.',
  });
  let document: ReturnType<typeof openApiDocument> | undefined;
  api.get('/openapi.json', (c) => {
    c.set('route', '/openapi.json');
    document ??= openApiDocument(api, version);
    return c.json(document);
  });
}
