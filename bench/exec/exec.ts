import { TorporError } from '@torpor/protocol';
import type { Sandbox } from '@torpor/sdk';
import type { Benchmark } from '../harness/benchmark.ts';
import { interleave, timed } from '../harness/interleave.ts';
import { execInGuest } from '../support/exec-in-guest.ts';

/** Runs on the Node of the guest's image: the cost of only starting `true`. */
const SPAWN_PROGRAM = `
const { spawn } = require('node:child_process');
const count = Number(process.argv[1]);
const times = [];
const next = () => {
  if (times.length === count) return console.log(JSON.stringify(times));
  const start = performance.now();
  spawn('true', { stdio: ['ignore', 'pipe', 'pipe'] }).on('close', () => {
    times.push(performance.now() - start);
    next();
  });
};
next();
`;

export const exec: Benchmark = {
  name: 'exec',
  title: 'Running a program: through the API, and straight to the guest',
  method:
    'One sandbox; `true` is run to its end, its output collected: with `POST /v1/sandboxes/{id}/exec` ' +
    '(client → control plane → host agent → envd), and by the same client speaking Connect to envd itself. ' +
    'Beside them a `GET /health` of envd (one round trip, no program), `GET /v1/sandboxes/{id}` (one round ' +
    'trip to the control plane and its database, no guest), and, inside the guest, a Node program that spawns `true` in a loop.',
  series: {
    api: { title: 'exec through the API', unit: 'ms' },
    envd: { title: 'exec straight to envd', unit: 'ms' },
    health: { title: 'GET /health of envd', unit: 'ms' },
    lookup: { title: 'GET /v1/sandboxes/{id}', unit: 'ms' },
    spawn: { title: 'spawn of `true` by a Node program in the guest', unit: 'ms' },
  },
  comparisons: [
    { title: 'exec through the API ÷ straight to envd', of: 'api', to: 'envd' },
    { title: 'exec straight to envd ÷ spawn in the guest', of: 'envd', to: 'spawn' },
  ],
  costs(measured) {
    const [api, envd, health, spawn] = ['api', 'envd', 'health', 'spawn'].map((name) =>
      measured.median(name),
    ) as [number, number, number, number];
    return [
      {
        title: 'An exec through the API',
        costs: [
          {
            title: 'starting the program in the guest',
            value: spawn,
            unit: 'ms',
            how: 'the Node program in the guest',
          },
          {
            title: 'the way to the guest and through its HTTP server',
            value: health,
            unit: 'ms',
            how: 'GET /health of envd',
          },
          {
            title: "envd's own work: accounts, streams, events",
            value: Math.max(0, envd - health - spawn),
            unit: 'ms',
            how: 'straight to envd − /health − spawn',
          },
          {
            title: 'control plane and host agent',
            value: Math.max(0, api - envd),
            unit: 'ms',
            how: 'through the API − straight to envd',
          },
        ],
      },
    ];
  },
  async run(context) {
    const rounds = context.quick ? 3 : 40;
    context.progress('starting a sandbox');
    const sandbox = await context.shared.sandbox();
    const platform = await context.shared.platform();
    const envd = await platform.envd(sandbox);
    try {
      await interleave(context, rounds, {
        api: () => timed(() => sandbox.exec('true')),
        envd: () => timed(() => execInGuest(envd)),
        health: () => timed(() => envd.isHealthy(10_000)),
        lookup: () => timed(() => sandbox.refresh()),
        spawn: () => spawnInGuest(sandbox, context.quick ? 1 : 3),
      });
    } finally {
      envd.close(new TorporError('guest_unreachable', 'The benchmark has finished.'));
    }
  },
};

async function spawnInGuest(sandbox: Sandbox, count: number): Promise<number[]> {
  const result = await sandbox.exec('node', ['-e', SPAWN_PROGRAM, String(count)]);
  if (result.exitCode !== 0) throw new Error(`The program in the guest failed: ${result.stderr}`);
  return JSON.parse(result.stdout);
}
