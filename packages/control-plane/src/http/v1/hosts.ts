import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { HostRow } from '../../database/schema.ts';
import type { HostService, IssuedToken } from '../../hosts/service.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';

const TAG = 'Hosts';
const params = z.object({ id: z.string() });

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/hosts',
  operationId: 'createHost',
  access: 'hosts.write',
  summary: 'Create a host, with a token that lets a machine join as it',
  description:
    'The token can be used once within an hour. A host of the platform needs the permission `platform`.',
  tag: TAG,
  body: rest.createHostSchema,
  responses: {
    201: jsonResponse('The host, which no machine has joined.', rest.createdHostSchema),
  },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/hosts',
  operationId: 'listHosts',
  access: 'hosts.read',
  summary: 'List the hosts of the team, and with `platform` those of the platform, oldest first',
  tag: TAG,
  responses: { 200: jsonResponse('The hosts.', rest.hostListSchema) },
});

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/hosts/{id}',
  operationId: 'getHost',
  access: 'hosts.read',
  summary: 'Get a host',
  tag: TAG,
  params,
  responses: { 200: jsonResponse('The host.', rest.hostSchema) },
});

const UPDATE = defineEndpoint({
  method: 'patch',
  path: '/v1/hosts/{id}',
  operationId: 'updateHost',
  access: 'hosts.write',
  summary: 'Rename or drain a host',
  tag: TAG,
  params,
  body: rest.updateHostSchema,
  responses: { 200: jsonResponse('The host as it is now.', rest.hostSchema) },
});

const DELETE = defineEndpoint({
  method: 'delete',
  path: '/v1/hosts/{id}',
  operationId: 'deleteHost',
  access: 'hosts.write',
  summary: 'Delete a host; its certificate is refused from then on',
  description:
    'A host with sandboxes that are not stopped, or with snapshots, is refused (`has_active_sandboxes`) unless forced. ' +
    'Then they are given up: the sandboxes become `stopped` and the snapshots no longer exist. What runs on the machine keeps running, ' +
    'and is removed if the machine joins again.',
  tag: TAG,
  params,
  query: rest.deleteHostQuerySchema,
  responses: { 204: { description: 'The host is deleted.' } },
});

const PREVIEW = defineEndpoint({
  method: 'get',
  path: '/v1/hosts/{id}/delete-preview',
  operationId: 'previewHostDeletion',
  access: 'hosts.read',
  summary: 'List what would be lost with a host',
  tag: TAG,
  params,
  responses: { 200: jsonResponse('What it has.', rest.hostDeletePreviewSchema) },
});

const TOKEN = defineEndpoint({
  method: 'post',
  path: '/v1/hosts/{id}/token',
  operationId: 'createHostToken',
  access: 'hosts.write',
  summary: 'Make another token for a host; earlier ones are no longer valid',
  description: 'For a machine that has not joined in time, or has lost its key.',
  tag: TAG,
  params,
  responses: { 201: jsonResponse('The token.', rest.hostTokenSchema) },
});

const TAGS = defineEndpoint({
  method: 'get',
  path: '/v1/hosts/{id}/tags',
  operationId: 'listHostTags',
  access: 'hosts.read',
  summary: 'List the tags of a host',
  tag: TAG,
  params,
  responses: { 200: jsonResponse('The tags.', rest.hostTagListSchema) },
});

const ADD_TAG = defineEndpoint({
  method: 'post',
  path: '/v1/hosts/{id}/tags',
  operationId: 'addHostTag',
  access: 'hosts.write',
  summary: 'Add a tag to a host',
  tag: TAG,
  params,
  body: rest.hostTagBodySchema,
  responses: { 204: { description: 'The host has the tag.' } },
});

const REMOVE_TAG = defineEndpoint({
  method: 'delete',
  path: '/v1/hosts/{id}/tags/{tag}',
  operationId: 'removeHostTag',
  access: 'hosts.write',
  summary: 'Remove a tag from a host',
  tag: TAG,
  params: z.object({ id: z.string(), tag: z.string() }),
  responses: { 204: { description: 'The host does not have the tag.' } },
});

export function addHostRoutes(api: Api, hosts: HostService): void {
  addEndpoint(api, CREATE, async (c, { body }) => {
    const { host, ...token } = await hosts.create(c.get('principal'), body);
    return c.json({ host: presentHost(host), ...presentToken(token) }, 201);
  });
  addEndpoint(api, LIST, async (c) =>
    c.json((await hosts.list(c.get('principal'))).map(presentHost)),
  );
  addEndpoint(api, GET, async (c, { params: { id } }) =>
    c.json(presentHost(await hosts.get(c.get('principal'), id))),
  );
  addEndpoint(api, UPDATE, async (c, { params: { id }, body }) =>
    c.json(presentHost(await hosts.update(c.get('principal'), id, body))),
  );
  addEndpoint(api, DELETE, async (c, { params: { id }, query: { force } }) => {
    await hosts.delete(c.get('principal'), id, force);
    return c.body(null, 204);
  });
  addEndpoint(api, PREVIEW, async (c, { params: { id } }) => {
    const { host, sandboxes, snapshots } = await hosts.deletePreview(c.get('principal'), id);
    return c.json({
      host: presentHost(host),
      sandbox_ids: sandboxes.map((sandbox) => sandbox.id),
      sandboxes: sandboxes.map((sandbox) => ({ id: sandbox.id, status: sandbox.state })),
      snapshots: [...snapshots],
    } satisfies rest.HostDeletePreview);
  });
  addEndpoint(api, TOKEN, async (c, { params: { id } }) =>
    c.json(presentToken(await hosts.renewToken(c.get('principal'), id)), 201),
  );
  addTagRoutes(api, hosts);
}

function addTagRoutes(api: Api, hosts: HostService): void {
  addEndpoint(api, TAGS, async (c, { params: { id } }) =>
    c.json((await hosts.get(c.get('principal'), id)).tags),
  );
  addEndpoint(api, ADD_TAG, async (c, { params: { id }, body: { tag } }) => {
    await hosts.addTag(c.get('principal'), id, tag);
    return c.body(null, 204);
  });
  addEndpoint(api, REMOVE_TAG, async (c, { params: { id, tag } }) => {
    await hosts.removeTag(c.get('principal'), id, tag);
    return c.body(null, 204);
  });
}

function presentToken({ token, expiresAt, joinUrl }: IssuedToken): rest.HostToken {
  return { token, expires_at: expiresAt.toISOString(), join_url: joinUrl };
}

function presentHost(row: HostRow): rest.Host {
  const { id, name, team_id, state, draining, tags, address } = row;
  const { arch, vcpus, memory_mb, disk_mb, free_disk_mb, builds, agent_version } = row;
  return {
    id,
    name,
    type: team_id === null ? 'regular' : 'team',
    ...withoutNulls({ team_id }),
    status: state,
    draining,
    tags,
    ...withoutNulls({ address, arch, vcpus, memory_mb, disk_mb, free_disk_mb, builds }),
    ...withoutNulls({
      agent_version,
      last_heartbeat_at: row.last_heartbeat_at?.toISOString() ?? null,
      certificate_expires_at: row.certificate_expires_at?.toISOString() ?? null,
      created_by: row.created_by,
    }),
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}

function withoutNulls<T extends Record<string, unknown>>(
  columns: T,
): { [K in keyof T]?: NonNullable<T[K]> } {
  const set = Object.entries(columns).filter(([, value]) => value !== null);
  return Object.fromEntries(set) as { [K in keyof T]?: NonNullable<T[K]> };
}
