import { once } from 'node:events';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient, createRouterTransport } from '@connectrpc/connect';
import { HostAgent } from '@torpor/agent';
import { hostAgent, newId, TorporError } from '@torpor/protocol';
import { GUEST_OPTIONS } from '@torpor/testkit/guests';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AgentClient, CACHE_DIR, run, text, vmmsOf } from './agent-under-test.ts';

/*
 * Sandboxes that are committed to builds and restored from them, in real guests. A campaign
 * raises the number of cycles to 30 and of copies to 8.
 */
const CYCLES = Number(process.env.TORPOR_PAUSE_CYCLES ?? 3);
const COPIES = Number(process.env.TORPOR_SNAPSHOT_COPIES ?? 3);
const MEMORY_MB = 256;

let dataDir: string;
let agent: HostAgent;
let client: AgentClient;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-snapshots-'));
  agent = await HostAgent.open({
    ...GUEST_OPTIONS,
    dataDir,
    cacheDir: CACHE_DIR,
    forcedAccelerator: 'tcg',
    logger: pino({ level: 'warn' }, pino.destination(2)),
    network: { poolSize: 1 },
  });
  client = createClient(
    hostAgent.HostAgentService,
    createRouterTransport((router) => agent.routes(router)),
  );
});
afterAll(async () => {
  await agent?.close({ destroyAll: true });
  if (dataDir !== undefined) await rm(dataDir, { recursive: true, force: true });
});

async function create(more: { templateId?: string; fromSnapshot?: boolean } = {}) {
  const sandboxId = newId('sandbox');
  const shape = { vcpus: 1, memoryMb: MEMORY_MB, diskSizeMb: 1024, templateId: 'base' };
  const response = await client.createSandbox({ sandboxId, ...shape, ...more });
  return { sandboxId, phases: response.timings.map(({ phase }) => phase) };
}

/** Resident bytes of the sandbox's RAM. */
async function residentBytes(sandboxId: string): Promise<number> {
  const file = join('/dev/shm', `torpor-${agent.instance}`, `${sandboxId}.ram`);
  return (await stat(file)).blocks * 512;
}

/** Holds a counter in memory, an open file that it appends to, and a listening socket. */
const COUNTER = `
import socket, threading
log = open('/home/user/log', 'a', buffering=1)
server = socket.create_server(('127.0.0.1', 9000))
count = 0
while True:
    connection, _ = server.accept()
    count += 1
    log.write(f'{count}\\n')
    connection.sendall(str(count).encode())
    connection.close()
`;

/** Sends a request to a server in the sandbox, once it listens, and returns the response; through bash's /dev/tcp. */
async function ask(sandboxId: string, port: number, request: string): Promise<string> {
  const talk = `exec 3<>/dev/tcp/127.0.0.1/${port}; printf %s "${request}" >&3; cat <&3`;
  const script = `for i in $(seq 200); do (${talk}) 2>/dev/null && exit; sleep 0.1; done; exit 1`;
  const { exitCode, stdout } = await client.exec({
    sandboxId,
    cmd: '/bin/bash',
    args: ['-c', script],
  });
  if (exitCode !== 0) throw new Error(`nothing listens on port ${port} of ${sandboxId}`);
  return text(stdout);
}

async function startPython(sandboxId: string, program: string): Promise<void> {
  await client.startBackground({ sandboxId, cmd: 'python3', args: ['-u', '-c', program] });
}

/** Sends back what the host sends it, over one connection. */
const ECHO = `
import socket
connection, _ = socket.create_server(('', 9002)).accept()
while True:
    connection.sendall(connection.recv(100))
`;

async function echoed(socket: Socket, text: string): Promise<string> {
  socket.write(text);
  const [data] = await once(socket, 'data');
  return String(data);
}

/** A connection from the host to the echo server of a sandbox, once that listens. */
async function connectToEcho(hostIp: string): Promise<Socket> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const socket = connect(9002, hostIp);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

async function askCounter(sandboxId: string): Promise<number> {
  return Number(await ask(sandboxId, 9000, ''));
}

let first: string;

describe('the first boot of a shape', () => {
  test('is kept, and the next sandbox is restored from it', async () => {
    const booted = await create();
    expect(booted.phases).toContain('boot');
    const restored = await create();
    expect(restored.phases).toContain('restore');
    expect(restored.phases).not.toContain('boot');
    const script = 'hostname; cat /etc/machine-id; cat /proc/sys/kernel/random/uuid; date +%s';
    const [one, two] = [
      (await run(client, booted.sandboxId, script)).split('\n'),
      (await run(client, restored.sandboxId, script)).split('\n'),
    ];
    expect(one[0]).toBe(booted.sandboxId);
    expect(two[0]).toBe(restored.sandboxId);
    for (const line of [1, 2]) expect(one[line]).not.toBe(two[line]);
    expect(Math.abs(Number(two[3]) - Date.now() / 1000)).toBeLessThan(30);
    await client.destroySandbox({ sandboxId: booted.sandboxId });
    first = restored.sandboxId;
  });
});

describe('a sandbox that is paused and resumed', () => {
  test('uses no resources of the host meanwhile, and its processes continue afterwards', async () => {
    await startPython(first, COUNTER);
    expect(await askCounter(first)).toBe(1);
    await startPython(first, ECHO);
    const hostIp = (await client.getSandbox({ sandboxId: first })).sandbox?.hostIp ?? '';
    const socket = await connectToEcho(hostIp);
    expect(await echoed(socket, 'before')).toBe('before');
    const { sandbox, timings } = await client.pauseSandbox({ sandboxId: first });
    expect(sandbox?.status).toBe('paused');
    expect(timings.map(({ phase }) => phase)).toEqual(
      expect.arrayContaining(['state', 'memory', 'disk', 'publish', 'total']),
    );
    expect(await vmmsOf(first)).toEqual([]);
    expect(await readdir(join('/dev/shm', `torpor-${agent.instance}`))).toEqual([]);
    await expect(run(client, first, 'true')).rejects.toMatchObject({ message: /paused/ });
    expect((await client.pauseSandbox({ sandboxId: first })).sandbox?.status).toBe('paused');

    const resumed = await client.resumeSandbox({ sandboxId: first });
    expect(resumed.sandbox?.status).toBe('running');
    expect(await askCounter(first)).toBe(2);
    expect(resumed.hostIp).toBe(hostIp);
    expect(await echoed(socket, 'after')).toBe('after');
    socket.destroy();
    expect(await run(client, first, 'cat /home/user/log')).toBe('1\n2\n');
  });

  test('is loaded lazily: most of its memory is not loaded, also while it idles', async () => {
    await client.pauseSandbox({ sandboxId: first });
    await client.resumeSandbox({ sandboxId: first });
    await run(client, first, 'true');
    expect(await residentBytes(first)).toBeLessThan((MEMORY_MB * 2 ** 20) / 2);
  });

  test(`reads back what it wrote to memory and disk, ${CYCLES} times`, async () => {
    // Random blocks of 4 KiB in 16 MiB of memory and of a file; some become zero.
    const writer = `
import hashlib, os, random, socket
memory = bytearray(16 << 20)
disk = os.open('/home/user/blocks', os.O_RDWR | os.O_CREAT)
os.ftruncate(disk, len(memory))
server = socket.create_server(('127.0.0.1', 9001))
while True:
    connection, _ = server.accept()
    if connection.recv(1) == b'w':
        for _ in range(400):
            block = random.randrange(len(memory) >> 12) << 12
            data = bytes(4096) if random.random() < 0.4 else os.urandom(4096)
            memory[block:block + 4096] = data
            os.pwrite(disk, data, block)
    blocks = os.pread(disk, len(memory), 0)
    digests = [hashlib.sha256(memory).hexdigest(), hashlib.sha256(blocks).hexdigest()]
    connection.sendall(' '.join(digests).encode())
    connection.close()
`;
    await startPython(first, writer);
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const written = await ask(first, 9001, 'w');
      const [memory, disk] = written.split(' ');
      expect(memory).toBe(disk);
      await client.pauseSandbox({ sandboxId: first });
      await client.resumeSandbox({ sandboxId: first });
      expect(await ask(first, 9001, 'r')).toBe(written);
    }
    expect(await askCounter(first)).toBe(3);
  });
});

describe('a snapshot', () => {
  const templateId = newId('template');
  let copies: string[];

  test(`makes ${COPIES} sandboxes at once, each with its own identity`, async () => {
    await client.createSnapshot({ sandboxId: first, templateId, resumeSource: true });
    const made = await Promise.all(
      Array.from({ length: COPIES }, () => create({ templateId, fromSnapshot: true })),
    );
    copies = made.map(({ sandboxId }) => sandboxId);
    const script = [
      'hostname',
      'cat /etc/machine-id',
      'head -c 16 /dev/urandom | base64',
      'python3 -c "import os, random; print(random.random(), os.urandom(8).hex())"',
    ].join('; ');
    const outputs = await Promise.all(copies.map((id) => run(client, id, script)));
    const columns = outputs.map((output) => output.trim().split('\n'));
    for (let line = 0; line < 4; line++) {
      expect(new Set(columns.map((lines) => lines[line])).size).toBe(COPIES);
    }
    expect(columns.map(([hostname]) => hostname)).toEqual(copies);
    // Each continues from the frozen counter, independently.
    const counted = await Promise.all(copies.map((id) => askCounter(id)));
    expect(counted).toEqual(copies.map(() => 4));
    expect(await askCounter(first)).toBe(4);
  });

  test('may be deleted while its sandboxes run; each sees only its own writes', async () => {
    await client.deleteSnapshot({ templateId });
    await Promise.all(copies.map((id) => run(client, id, `echo ${id} > /home/user/mine`)));
    const read = await Promise.all(copies.map((id) => run(client, id, 'cat /home/user/mine')));
    expect(read).toEqual(copies.map((id) => `${id}\n`));
    await expect(create({ templateId, fromSnapshot: true })).rejects.toSatisfy(
      (error: unknown) => TorporError.from(error).code === 'not_found',
    );
  });
});

describe('a fork', () => {
  test('copies a running sandbox, which keeps running', async () => {
    const childIds = [newId('sandbox'), newId('sandbox')];
    const { children } = await client.forkSandbox({ sandboxId: first, childIds });
    expect(children.map(({ sandboxId, outcome }) => [sandboxId, outcome.case])).toEqual(
      childIds.map((id) => [id, 'sandbox']),
    );
    const counts = await Promise.all([first, ...childIds].map((id) => askCounter(id)));
    expect(counts).toEqual([5, 5, 5]);
    for (const sandboxId of childIds) await client.destroySandbox({ sandboxId });
  });
});

describe('a sandbox whose programs have filled or damaged its files', () => {
  /** One after the other, in one guest, so that their effects add up. */
  const DAMAGES = {
    'files in /etc that cannot be changed, and a mount over one': `
      rm -r /.torpor
      chattr +i /etc/hosts /etc/resolv.conf /etc/machine-id
      echo mine > /tmp/mine && mount --bind /tmp/mine /etc/hostname`,
    'a full disk and full file systems in memory': `
      mkdir /filler
      for size in 256M 16M 1M 64K 4K; do
        i=0; while fallocate -l $size /filler/$size-$i; do i=$((i + 1)); done
      done
      ! echo x > /home/user/more || exit 1
      dd if=/dev/zero of=/run/filler bs=64k; mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs /tmp`,
    'no /etc, no home, and no /dev/urandom': `
      umount /etc/hostname /etc/hosts /etc/resolv.conf /etc/machine-id; chattr -i /etc/*
      rm -r /etc/* /home/user /dev/urandom; [ ! -e /etc/passwd ]`,
  } as const;
  const identity = (sandboxId: string) =>
    run(client, sandboxId, 'hostname; cat /proc/sys/kernel/random/uuid; cat /etc/machine-id || :');

  test('can still be paused, resumed, forked and copied', {
    timeout: 600_000,
  }, async () => {
    const { sandboxId } = await create();
    for (const [damage, script] of Object.entries(DAMAGES)) {
      const args = ['-c', script];
      const done = await client.exec({ sandboxId, user: 'root', cmd: '/bin/sh', args });
      expect([damage, done.exitCode]).toEqual([damage, 0]);
      await client.pauseSandbox({ sandboxId });
      const resumed = await client.resumeSandbox({ sandboxId });
      expect([damage, resumed.sandbox?.status]).toEqual([damage, 'running']);
      const [hostname, , machineId] = (await identity(sandboxId)).split('\n');
      expect([damage, hostname]).toEqual([damage, sandboxId]);
      const childId = newId('sandbox');
      const { children } = await client.forkSandbox({ sandboxId, childIds: [childId] });
      expect([damage, children[0]?.outcome.case]).toEqual([damage, 'sandbox']);
      const child = (await identity(childId)).split('\n');
      expect([damage, child[0]]).toEqual([damage, childId]);
      if (child[2] !== '') expect(child[2]).not.toBe(machineId);
      await client.destroySandbox({ sandboxId: childId });
    }
    const templateId = newId('template');
    await client.createSnapshot({ sandboxId, templateId, resumeSource: false });
    const copy = await create({ templateId, fromSnapshot: true });
    expect(await identity(copy.sandboxId)).toMatch(new RegExp(`^${copy.sandboxId}\\n`));
    await client.deleteSnapshot({ templateId });
  });
});

describe('finally', () => {
  test('all builds are valid, and nothing is left but the kept boot', async () => {
    for await (const { buildId, fault } of client.verifyBuilds({})) {
      expect({ buildId, fault }).toEqual({ buildId, fault: undefined });
    }
    const { sandboxes } = await client.listSandboxes({});
    for (const { sandboxId } of sandboxes) await client.destroySandbox({ sandboxId });
    await client.collectBuilds({});
    const left: string[][] = [];
    for await (const build of client.verifyBuilds({})) left.push(build.references);
    expect(left).toEqual([[expect.stringMatching(/^kept-boot /)]]);
    for (const { sandboxId } of sandboxes) expect(await vmmsOf(sandboxId)).toEqual([]);
    expect(await readdir(join('/dev/shm', `torpor-${agent.instance}`))).toEqual([]);
  });
});
