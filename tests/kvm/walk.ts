// Runs inside the emulated machine, a freshly booted Debian: the commands that a user would run,
// one after the other. Each step prints its output and how long it took; the first that fails
// stops the walk, since the others depend on it.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { type CommandResult, runTorpor, TorporProcess } from '@torpor/testkit/cli';
import { z } from 'zod';
import { EXPECTED_VMM, PRODUCT } from './product-disk.ts';
import { verdictLine } from './verdict.ts';

const run = promisify(execFile);

const DATA_DIR = `${PRODUCT.mount}/data`;
/** Loaded on demand: a freshly booted host has none of them. */
const ON_DEMAND_MODULES = ['veth', 'tun', 'nf_tables', 'nf_conntrack'];
const OUTPUT_LINES = 40;

const expectedVmm = z.enum(['qemu', 'firecracker']).parse(process.env[EXPECTED_VMM]);
const sandboxesSchema = z.array(
  z.looseObject({ id: z.string(), status: z.string(), reason: z.string().optional() }),
);

/** Results that later steps use. */
const found = { source: '', copy: '', forks: [] as string[] };
let server: TorporProcess | undefined;
/** All servers that were started, for their logs. */
const servers: TorporProcess[] = [];

const STEPS: readonly (readonly [name: string, step: () => Promise<void>])[] = [
  ['the machine is bare', showMachine],
  ['torpor setup', async () => void (await torpor('setup'))],
  ['torpor doctor, which chooses KVM', checkChoice],
  ['torpor up', start],
  ['torpor create', createSource],
  ['its VMM runs under KVM', underKvm],
  ['torpor exec', () => says(found.source, 'some text', 'sh', '-c', 'echo some text; uname -r')],
  ['a program that keeps counting', () => startCounter(found.source)],
  ['torpor pause', async () => void (await torpor('pause', found.source))],
  ['a paused sandbox has no VMM', () => vmmsAre(0)],
  ['torpor resume', async () => void (await torpor('resume', found.source))],
  ['the program kept running', () => countsOn(found.source)],
  ['torpor snapshot', async () => void (await torpor('snapshot', found.source, '--name', 'warm'))],
  ['torpor create --template', createCopy],
  ['the program keeps counting in the copy', () => countsOn(found.copy)],
  ['torpor fork', fork],
  ['the program keeps counting in each fork', eachForkCounts],
  ['the program keeps counting in what was forked', () => countsOn(found.copy)],
  ['kill -9 of torpor up', killServer],
  ['torpor up again', start],
  ['the sandboxes were adopted', checkAdopted],
  ['the program keeps counting after that', () => countsOn(found.copy)],
  ['a pause and a resume after that', pauseAndResume],
  ['torpor doctor --probe', async () => void (await torpor('doctor', '--probe'))],
  ['torpor rm', removeAll],
  ['torpor up stops', stop],
  ['nothing is left', () => vmmsAre(0)],
];

process.exit(await main());

async function main(): Promise<number> {
  let passed = 0;
  for (const [name, step] of STEPS) {
    const startedAt = performance.now();
    const took = () => `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
    say(`> ${name}`);
    try {
      await step();
      passed += 1;
      say(`ok: ${name} (${took()})`);
    } catch (error) {
      say(`FAILED: ${name} (${took()}): ${error instanceof Error ? error.message : String(error)}`);
      await explain();
      say(verdictLine({ passed, failed: 1 }));
      return 1;
    }
  }
  say(verdictLine({ passed, failed: 0 }));
  return 0;
}

async function showMachine(): Promise<void> {
  const modules = await readFile('/proc/modules', 'utf8');
  const loaded = ON_DEMAND_MODULES.filter((name) => new RegExp(`^${name} `, 'm').test(modules));
  const { stdout } = await run('uname', ['-srv']);
  say(stdout.trim());
  say(`of ${ON_DEMAND_MODULES.join(', ')} there is loaded: ${loaded.join(', ') || 'none'}`);
}

async function start(): Promise<void> {
  server = await TorporProcess.start(DATA_DIR);
  servers.push(server);
  say(`it serves at ${server.apiUrl}`);
}

/** Without a setting and an earlier result, the probe decides. */
async function checkChoice(): Promise<void> {
  const output = await torpor('doctor');
  const fact = (id: string) => new RegExp(`^. ${id} +(.*)$`, 'm').exec(output)?.[1] ?? 'not named';
  expect(fact('accelerator').startsWith('kvm: '), `the accelerator is ${fact('accelerator')}`);
  expect(fact('vmm').startsWith(`${expectedVmm} `), `the VMM is ${fact('vmm')}`);
}

/** Firecracker always uses KVM; for QEMU the arguments show it. */
async function underKvm(): Promise<void> {
  await vmmsAre(1);
  if (expectedVmm === 'firecracker') return;
  const { stdout } = await run('ps', ['-ww', '-eo', 'args']);
  expect(/^\S*qemu-system-x86_64 .*-accel kvm /m.test(stdout), 'no QEMU runs under KVM');
}

async function createSource(): Promise<void> {
  found.source = await created('create');
}

async function createCopy(): Promise<void> {
  found.copy = await created('create', '--template', 'warm');
}

async function created(...args: readonly string[]): Promise<string> {
  const id = (await torpor(...args)).trim();
  expect(/^sb[a-z0-9]{20}$/.test(id), `not the id of a sandbox: ${id}`);
  return id;
}

async function says(id: string, text: string, ...command: readonly string[]): Promise<void> {
  const output = await torpor('exec', id, '--', ...command);
  expect(output.includes(text), `it does not say ${JSON.stringify(text)}`);
}

/** Starts a program whose memory a pause must keep: it counts, and prints its count. */
async function startCounter(id: string): Promise<void> {
  const script =
    'n=0; while :; do n=$((n + 1)); echo $n >/dev/shm/count.new; mv /dev/shm/count.new /dev/shm/count; sleep 0.1; done';
  await torpor('exec', '-d', id, '--', 'sh', '-c', script);
  await countsOn(id);
}

/** Reads the counter twice: it exists, and increases. */
async function countsOn(id: string): Promise<void> {
  const script =
    'until [ -s /dev/shm/count ]; do sleep 0.1; done; a=$(cat /dev/shm/count); until [ "$(cat /dev/shm/count)" -gt "$a" ]; do sleep 0.1; done; echo counts on';
  await says(id, 'counts on', 'sh', '-c', script);
}

async function fork(): Promise<void> {
  const output = await torpor('fork', found.copy, '--count', '2');
  found.forks = output.split('\n').filter((line) => /^sb[a-z0-9]{20}$/.test(line));
  expect(found.forks.length === 2, 'there are not two forks');
}

async function eachForkCounts(): Promise<void> {
  for (const id of found.forks) await countsOn(id);
}

async function killServer(): Promise<void> {
  await server?.kill();
  await vmmsAre(3);
}

async function checkAdopted(): Promise<void> {
  const byId = new Map((await sandboxes()).map((sandbox) => [sandbox.id, sandbox]));
  for (const id of [found.copy, ...found.forks]) {
    const { status, reason } = byId.get(id) ?? {};
    expect(status === 'running', `${id} is ${status}: ${reason}`);
  }
}

async function pauseAndResume(): Promise<void> {
  await torpor('pause', found.copy);
  await torpor('resume', found.copy);
  await countsOn(found.copy);
}

async function removeAll(): Promise<void> {
  for (const { id } of await sandboxes()) await torpor('rm', id);
  await torpor('templates', 'rm', 'warm');
}

async function stop(): Promise<void> {
  const status = await server?.stop();
  expect(status === 0, `its exit status is ${status}`);
}

async function sandboxes(): Promise<z.infer<typeof sandboxesSchema>> {
  return sandboxesSchema.parse(JSON.parse(await torpor('ls', '--json')));
}

async function vmmsAre(expected: number): Promise<void> {
  const program = expectedVmm === 'qemu' ? 'qemu-system-x86' : 'firecracker';
  const { stdout } = await run('ps', ['-eo', 'comm']);
  const count = stdout.split('\n').filter((name) => name.startsWith(program)).length;
  expect(count === expected, `${count} of ${program} run, not ${expected}`);
}

/** Runs the command line, shows what it printed, and returns its standard output. Throws unless it exits with 0. */
async function torpor(...args: readonly string[]): Promise<string> {
  const result: CommandResult = await runTorpor(DATA_DIR, args);
  const lines = `${result.stderr}${result.stdout}`.split('\n').filter((line) => line !== '');
  for (const line of lines.slice(-OUTPUT_LINES)) say(`  ${line}`);
  expect(result.exitCode === 0, `torpor ${args.join(' ')} exited with ${result.exitCode}`);
  return result.stdout;
}

/** Prints the last output of the servers, the kernel and the sandboxes' consoles. */
async function explain(): Promise<void> {
  for (const line of servers.flatMap(({ log }) => log)) say(`  ${line}`);
  const commands = [
    'dmesg | tail -n 15',
    `tail -n 15 ${DATA_DIR}/sandboxes/*/console.log ${DATA_DIR}/sandboxes/*/*/console.log`,
    'free -m; df -h /torpor /dev/shm; ps -eo pid,etimes,args | tail -n 25',
  ];
  for (const command of commands) {
    const { stdout } = await run('sh', ['-c', `${command} 2>&1; true`]);
    for (const line of stdout.split('\n')) say(`  ${line}`);
  }
}

function expect(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
