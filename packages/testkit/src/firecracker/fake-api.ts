/**
 * What Firecracker's API accepts, by version: src/firecracker/swagger/firecracker.yaml
 * and src/vmm/src/vmm_config/*. Unlike the real one, the fake refuses unknown fields in
 * every body, not in most.
 */

type Kind = 'string' | 'number' | 'boolean' | 'object' | 'array' | readonly string[];

interface Field {
  readonly kind: Kind;
  readonly required?: true;
  /** Minor version of 1.x that introduced it. */
  readonly since?: number;
}

type Body = Readonly<Record<string, Field>>;

const string: Field = { kind: 'string' };
const number: Field = { kind: 'number' };
const boolean: Field = { kind: 'boolean' };
const object: Field = { kind: 'object' };
const required = (field: Field): Field => ({ ...field, required: true });
const since = (minor: number, field: Field): Field => ({ ...field, since: minor });

const MEM_BACKEND: Body = {
  backend_type: required({ kind: ['File', 'Uffd'] }),
  backend_path: required(string),
};

export interface Endpoint {
  readonly method: 'PUT' | 'PATCH';
  readonly path: RegExp;
  /** `fresh`: only as the first call that configures anything. */
  readonly when: 'pre-boot' | 'post-boot' | 'fresh';
  readonly body: Body;
}

export const ENDPOINTS: readonly Endpoint[] = [
  {
    method: 'PUT',
    path: /^\/boot-source$/,
    when: 'pre-boot',
    body: { kernel_image_path: required(string), initrd_path: string, boot_args: string },
  },
  {
    method: 'PUT',
    path: /^\/drives\/(?<drive_id>\w+)$/,
    when: 'pre-boot',
    body: {
      drive_id: required(string),
      is_root_device: required(boolean),
      path_on_host: required(string),
      is_read_only: boolean,
      partuuid: string,
      cache_type: { kind: ['Unsafe', 'Writeback'] },
      rate_limiter: object,
      io_engine: { kind: ['Sync', 'Async'] },
      socket: string,
    },
  },
  {
    method: 'PUT',
    path: /^\/network-interfaces\/(?<iface_id>\w+)$/,
    when: 'pre-boot',
    body: {
      iface_id: required(string),
      host_dev_name: required(string),
      guest_mac: string,
      mtu: since(16, number),
      rx_rate_limiter: object,
      tx_rate_limiter: object,
    },
  },
  {
    method: 'PUT',
    path: /^\/machine-config$/,
    when: 'pre-boot',
    body: {
      vcpu_count: required(number),
      mem_size_mib: required(number),
      smt: boolean,
      track_dirty_pages: boolean,
      huge_pages: { kind: ['None', '2M'] },
      cpu_template: string,
    },
  },
  { method: 'PUT', path: /^\/entropy$/, when: 'pre-boot', body: { rate_limiter: object } },
  {
    method: 'PUT',
    path: /^\/actions$/,
    when: 'pre-boot',
    body: { action_type: required({ kind: ['InstanceStart', 'SendCtrlAltDel'] }) },
  },
  {
    method: 'PATCH',
    path: /^\/vm$/,
    when: 'post-boot',
    body: { state: required({ kind: ['Paused', 'Resumed'] }) },
  },
  {
    method: 'PUT',
    path: /^\/snapshot\/create$/,
    when: 'post-boot',
    body: {
      snapshot_type: { kind: ['Full', 'Diff'] },
      snapshot_path: required(string),
      mem_file_path: required(string),
    },
  },
  {
    method: 'PUT',
    path: /^\/snapshot\/load$/,
    when: 'fresh',
    body: {
      snapshot_path: required(string),
      mem_backend: object,
      mem_file_path: string,
      resume_vm: boolean,
      enable_diff_snapshots: boolean,
      track_dirty_pages: since(13, boolean),
      network_overrides: since(12, { kind: 'array' }),
      vsock_override: since(16, object),
      clock_realtime: since(16, boolean),
    },
  },
];

/** A refused call: status 400 with this message as its `fault_message`. */
export class Fault extends Error {
  override readonly name = 'Fault';
}

export type JsonObject = Readonly<Record<string, unknown>>;

/** Parses and checks a body. Throws {@link Fault} with the message of Firecracker's parser. */
export function parseBody(
  endpoint: Endpoint,
  text: string,
  path: string,
  minor: number,
): JsonObject {
  const body = parseObject(text);
  checkFields(endpoint.body, body, minor);
  const inPath = endpoint.path.exec(path)?.groups ?? {};
  for (const [name, value] of Object.entries(inPath)) {
    if (body[name] !== value) {
      throw new Fault('The id from the path does not match the id from the body!');
    }
  }
  if (body.mem_backend !== undefined) {
    checkFields(MEM_BACKEND, body.mem_backend as JsonObject, minor);
  }
  if (
    endpoint.when === 'fresh' &&
    (body.mem_backend === undefined) === (body.mem_file_path === undefined)
  ) {
    throw new Fault('missing field: either `mem_backend` or `mem_file_path` is required');
  }
  for (const override of (body.network_overrides as JsonObject[] | undefined) ?? []) {
    checkFields({ iface_id: required(string), host_dev_name: required(string) }, override, minor);
  }
  return body;
}

function parseObject(text: string): JsonObject {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      return value as JsonObject;
    }
  } catch {
    // Reported below.
  }
  throw deserialisation('expected a JSON object');
}

function checkFields(fields: Body, body: JsonObject, minor: number): void {
  const known = Object.entries(fields).filter(([, field]) => (field.since ?? 0) <= minor);
  const names = known.map(([name]) => name);
  for (const name of Object.keys(body)) {
    if (names.includes(name)) continue;
    throw deserialisation(
      `unknown field \`${name}\`, expected one of ${names.map((known) => `\`${known}\``).join(', ')}`,
    );
  }
  for (const [name, field] of known) {
    const value = body[name];
    if (value === undefined) {
      if (field.required === true) throw deserialisation(`missing field \`${name}\``);
      continue;
    }
    if (!isOfKind(value, field.kind)) throw deserialisation(`invalid value of \`${name}\``);
  }
}

function isOfKind(value: unknown, kind: Kind): boolean {
  if (typeof kind === 'object') return typeof value === 'string' && kind.includes(value);
  if (kind === 'array') return Array.isArray(value);
  if (kind === 'object')
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  return typeof value === kind;
}

function deserialisation(what: string): Fault {
  return new Fault(
    `An error occurred when deserializing the json body of a request: ${what} at line 1 column 1.`,
  );
}
