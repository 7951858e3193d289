import {
  appendFileSync,
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { crc32 } from 'node:zlib';
import { ENDPOINTS, type Endpoint, Fault, type JsonObject, parseBody } from './fake-api.ts';
import { FakeGuest, type GuestDrive, GuestMemory } from './fake-guest.ts';

/**
 * A Firecracker that runs no guest, but is strict about everything that its driver sees: its
 * command line, its API with the fields of its version and the order of the calls, the paths
 * and devices in them, and its exit when a snapshot cannot be loaded.
 * Its guest's RAM is real and is served by a real userfaultfd.
 */

/** The behaviour of the fake: `FAKE_FIRECRACKER` as JSON. */
export interface FakeBehaviour {
  /** `1.16.1` if omitted. */
  readonly version?: string;
  /** Calls are appended to this file, a line of JSON for each. */
  readonly transcript?: string;
  /** Exits without a response to this call: `PUT /snapshot/create`. */
  readonly diesAt?: string;
  /** Refuses this call the first time. */
  readonly refuses?: string;
  /** Directory for a guest's whole RAM whenever a snapshot is taken, in a file named after the machine. */
  readonly witness?: string;
}

const behaviour: FakeBehaviour = JSON.parse(process.env.FAKE_FIRECRACKER ?? '{}');
const version = behaviour.version ?? '1.16.1';
const minor = Number(version.split('.')[1]);
/** The data format's major version: docs/snapshotting/versioning.md. */
const DATA_FORMATS: Readonly<Record<number, number>> = {
  8: 2,
  9: 3,
  10: 4,
  11: 5,
  12: 6,
  13: 8,
  14: 8,
  15: 9,
  16: 10,
  17: 11,
};
const STATE_MAGIC = 'fake-firecracker-state';
const MAX_BODY_BYTES = 51_200;
const EXIT = { error: 1, badConfiguration: 152, arguments: 153 };

interface SavedState {
  readonly format: number;
  readonly machine: JsonObject;
  readonly drives: readonly JsonObject[];
  readonly interfaces: readonly JsonObject[];
  /** The host's monotonic clock (ns) when it was saved: like the real one's, no two states are alike. */
  readonly clock: string;
}

interface Log {
  readonly path: string | undefined;
  readonly showLevel: boolean;
}

class FakeFirecracker {
  readonly id: string;
  readonly #log: Log;
  #state: 'Not started' | 'Running' | 'Paused' = 'Not started';
  #isConfigured = false;
  #hasRefused = false;
  #bootSource: JsonObject | undefined;
  #machine: JsonObject = { vcpu_count: 1, mem_size_mib: 128, track_dirty_pages: false };
  #drives: JsonObject[] = [];
  #interfaces: JsonObject[] = [];
  #memory: GuestMemory | undefined;
  #guest: FakeGuest | undefined;

  constructor(id: string, log: Log) {
    this.id = id;
    this.#log = log;
  }

  /** Throws {@link Fault}. Returns an object, or undefined for 204. */
  handle(method: string, path: string, text: string): object | undefined {
    if (method === 'GET') return this.#get(path);
    const endpoint = ENDPOINTS.find((known) => known.method === method && known.path.test(path));
    if (endpoint === undefined) {
      throw new Fault(`Invalid request method and/or path: ${method} ${path}.`);
    }
    const call = `${method} ${path}`;
    const body = parseBody(endpoint, text, path, minor);
    if (behaviour.transcript !== undefined) {
      appendFileSync(behaviour.transcript, `${JSON.stringify({ call, body })}\n`);
    }
    if (behaviour.diesAt === call) this.fail(`dying at ${call}`, 148);
    if (behaviour.refuses === call && !this.#hasRefused) {
      this.#hasRefused = true;
      throw new Fault(`The fake refuses ${call}.`);
    }
    this.#checkOrder(endpoint, body);
    this.#apply(path, body);
    return undefined;
  }

  fail(message: string, exitCode: number): never {
    this.#write('main', 'ERROR', message);
    process.stderr.write(`Error: ${message}\n`);
    this.#write('main', 'ERROR', `Firecracker exiting with error. exit_code=${exitCode}`);
    process.exit(exitCode);
  }

  #write(thread: string, level: 'ERROR' | 'WARN', message: string): void {
    if (this.#log.path === undefined) return;
    const shown = this.#log.showLevel ? `:${level}` : '';
    const line = `2026-01-01T00:00:00.000000000 [${this.id}:${thread}${shown}] ${message}\n`;
    appendFileSync(this.#log.path, line);
  }

  #get(path: string): object {
    if (path === '/version') return { firecracker_version: version };
    if (path === '/machine-config') return this.#machine;
    if (path === '/') {
      const { id } = this;
      return { id, state: this.#state, vmm_version: version, app_name: 'Firecracker' };
    }
    throw new Fault(`Invalid request method and/or path: GET ${path}.`);
  }

  #checkOrder(endpoint: Endpoint, body: JsonObject): void {
    const isStarted = this.#state !== 'Not started';
    const isForRunning = endpoint.when === 'post-boot' || body.action_type === 'SendCtrlAltDel';
    if (isForRunning && !isStarted) {
      throw new Fault('The requested operation is not supported before starting the microVM.');
    }
    if (!isForRunning && isStarted) {
      throw new Fault('The requested operation is not supported after starting the microVM.');
    }
    if (endpoint.when === 'fresh' && this.#isConfigured) {
      throw new Fault(
        'Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.',
      );
    }
  }

  #apply(path: string, body: JsonObject): void {
    if (path === '/actions') this.#act(body);
    else if (path === '/vm') this.#setState(body);
    else if (path === '/snapshot/create') this.#save(body);
    else if (path === '/snapshot/load') this.#load(body);
    else this.#configure(path, body);
  }

  #configure(path: string, body: JsonObject): void {
    this.#isConfigured = true;
    if (path === '/boot-source') {
      for (const file of [body.kernel_image_path, body.initrd_path]) mustOpen(file, 'r');
      if (String(body.boot_args).length > 2048)
        throw new Fault('The kernel command line is too long.');
      this.#bootSource = body;
    } else if (path === '/machine-config') {
      const vcpus = Number(body.vcpu_count);
      if (vcpus < 1 || vcpus > 32) throw new Fault('The vCPU number is invalid!');
      this.#machine = body;
    } else if (path.startsWith('/drives/')) {
      mustOpen(body.path_on_host, body.is_read_only === true ? 'r' : 'r+');
      this.#drives.push(body);
    } else if (path.startsWith('/network-interfaces/')) {
      mustHaveTap(body.host_dev_name);
      this.#interfaces.push(body);
    }
  }

  #act({ action_type }: JsonObject): void {
    // The keys reach a running guest; ours reboots, which makes Firecracker exit.
    if (action_type === 'SendCtrlAltDel') {
      if (this.#state === 'Running') setImmediate(() => process.exit(0));
      return;
    }
    if (this.#bootSource === undefined) {
      throw new Fault('Cannot start microvm without kernel configuration.');
    }
    this.#memory = this.#makeMemory(this.#machine.track_dirty_pages === true);
    this.#guest = new FakeGuest(this.#memory);
    this.#state = 'Running';
    this.#write('fc_vcpu 0', 'WARN', 'Invalid MMIO read @ 0xfffffffc:0x4: Failed to find it.');
    const mac = this.#interfaces[0]?.guest_mac;
    const drives = this.#openDrives();
    const bootArguments = String(this.#bootSource.boot_args);
    const guest = this.#guest;
    setImmediate(() =>
      guest.boot(bootArguments, drives, mac === undefined ? undefined : String(mac)),
    );
  }

  #setState({ state }: JsonObject): void {
    if (state === 'Paused') this.#guest?.pause();
    else this.#guest?.resume();
    this.#write('main', 'WARN', 'Failed to do what the guest can do without.');
    this.#state = state === 'Paused' ? 'Paused' : 'Running';
  }

  #save({ snapshot_type, snapshot_path, mem_file_path }: JsonObject): void {
    if (this.#state !== 'Paused') {
      throw new Fault(
        'Create snapshot error: Cannot save the microVM state: the microVM is running.',
      );
    }
    const state: SavedState = {
      format: DATA_FORMATS[minor] ?? 0,
      machine: this.#machine,
      drives: this.#drives,
      interfaces: this.#interfaces,
      clock: String(process.hrtime.bigint()),
    };
    const text = JSON.stringify(state);
    try {
      writeFileSync(String(snapshot_path), `${STATE_MAGIC}\n${crc32(text)}\n${text}`);
      this.#memory?.dump(String(mem_file_path), snapshot_type === 'Diff' ? 'Diff' : 'Full');
      if (behaviour.witness !== undefined) this.#memory?.copyTo(join(behaviour.witness, this.id));
    } catch (error) {
      throw new Fault(`Create snapshot error: Cannot write the snapshot: ${error}.`);
    }
  }

  /** After a load that fails the process exits, once the response is sent. */
  #load(body: JsonObject): void {
    try {
      const state = readState(String(body.snapshot_path));
      this.#machine = state.machine;
      this.#drives = [...state.drives];
      for (const drive of this.#drives) {
        mustOpen(drive.path_on_host, drive.is_read_only === true ? 'r' : 'r+');
      }
      this.#interfaces = state.interfaces.map((own) => ({
        ...own,
        ...((body.network_overrides as JsonObject[] | undefined) ?? []).find(
          (override) => override.iface_id === own.iface_id,
        ),
      }));
      for (const { host_dev_name } of this.#interfaces) mustHaveTap(host_dev_name);
      const memory = this.#makeMemory(
        body.track_dirty_pages === true || body.enable_diff_snapshots === true,
      );
      this.#memory = memory;
      const backend = body.mem_backend as JsonObject;
      if (backend.backend_type === 'File') memory.loadFile(String(backend.backend_path));
      else memory.serveFrom(String(backend.backend_path), minor);
      // VMGenID and the virtqueues are touched before the call returns.
      memory.write(memory.pages - 1, Uint8Array.of(1));
      this.#guest = new FakeGuest(memory);
      this.#state = 'Paused';
      if (body.resume_vm === true) this.#setState({ state: 'Resumed' });
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      const message = `Load snapshot error: Failed to restore from snapshot: ${why}`;
      setImmediate(() => this.fail(message, EXIT.error));
      throw new Fault(message);
    }
  }

  #makeMemory(isTracked: boolean): GuestMemory {
    return new GuestMemory(Number(this.#machine.mem_size_mib), isTracked);
  }

  #openDrives(): GuestDrive[] {
    return this.#drives.map(({ path_on_host, is_read_only }) => {
      const readOnly = is_read_only === true;
      return { fd: openSync(String(path_on_host), readOnly ? 'r' : 'r+'), readOnly };
    });
  }
}

function readState(path: string): SavedState {
  const [magic, sum, text = ''] = readFileSync(path, 'latin1').split('\n');
  if (magic !== STATE_MAGIC)
    throw new Error('Failed to deserialize the state: invalid magic value');
  if (crc32(text) !== Number(sum))
    throw new Error('Failed to deserialize the state: CRC64 mismatch');
  const state: SavedState = JSON.parse(text);
  if (state.format !== DATA_FORMATS[minor]) {
    throw new Error(`Snapshot file is invalid: data format ${state.format}.0.0 is not supported`);
  }
  return state;
}

/** Every path must be relative, so that it is the same in a chroot and in a working directory. */
function mustOpen(path: unknown, flags: 'r' | 'r+'): void {
  if (String(path).startsWith('/')) throw new Fault(`The fake refuses absolute paths: ${path}.`);
  try {
    closeSync(openSync(String(path), flags));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Fault(`Unable to open ${path}: ${why}.`);
  }
}

function mustHaveTap(name: unknown): void {
  const devices = readFileSync('/proc/self/net/dev', 'utf8');
  if (!new RegExp(`^\\s*${name}:`, 'm').test(devices)) {
    throw new Fault(
      `Could not create the network device: Open tap device failed: no device ${name}.`,
    );
  }
}

function serve(request: IncomingMessage, response: ServerResponse, vmm: FakeFirecracker): void {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    const respond = (status: number, body?: object) => {
      response.statusCode = status;
      if (body === undefined) return response.end();
      response.setHeader('content-type', 'application/json');
      return response.end(JSON.stringify(body));
    };
    const text = Buffer.concat(chunks).toString();
    if (text.length > MAX_BODY_BYTES) return respond(413, { error: 'Payload too large' });
    try {
      const body = vmm.handle(request.method ?? '', request.url ?? '', text);
      return body === undefined ? respond(204) : respond(200, body);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return respond(400, { fault_message: error.message });
    }
  });
}

function main(): void {
  if (process.argv.includes('--version')) {
    process.stdout.write(
      `Firecracker v${version}\n\n2026-01-01T00:00:00.000000000 [anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n`,
    );
    return;
  }
  let options: { 'api-sock': string; id: string; 'log-path'?: string; 'show-level'?: boolean };
  try {
    const { values } = parseArgs({
      strict: true,
      options: {
        'api-sock': { type: 'string', default: '/run/firecracker.socket' },
        id: { type: 'string', default: 'anonymous-instance' },
        'log-path': { type: 'string' },
        level: { type: 'string' },
        'show-level': { type: 'boolean' },
      },
    });
    options = values;
  } catch (error) {
    process.stderr.write(`Arguments parsing error: ${error}\n`);
    process.exit(EXIT.arguments);
  }
  const { id, 'api-sock': socket, 'log-path': path, 'show-level': showLevel = false } = options;
  const vmm = new FakeFirecracker(id, { path, showLevel });
  if (!/^[A-Za-z0-9-]{1,64}$/.test(id)) vmm.fail('Invalid instance ID', EXIT.arguments);
  if (existsSync(socket)) {
    vmm.fail(`Failed to open the API socket at: ${socket}. Check that it is not already used.`, 1);
  }
  createServer((request, response) => serve(request, response, vmm)).listen(socket);
}

main();
