import { setTimeout as delay } from 'node:timers/promises';
import type { Sandbox } from '@torpor/sdk';
import type { Benchmark } from '../harness/benchmark.ts';
import { Server } from '../support/child.ts';
import type { Platform } from '../support/platform.ts';
import { listProcesses, parsePss, proportionalSetSize } from '../support/processes.ts';

/** A minimal Node server: the minimum cost of a daemon in Node. */
const PLAIN_DAEMON =
  "require('node:http').createServer().listen(0, () => console.log('listening'))";

export const idleMemory: Benchmark = {
  name: 'idle-memory',
  title: 'Memory of each process, idle',
  method:
    'Proportional set size (PSS: pages that n processes share count 1/n each) from /proc/PID/smaps_rollup, of every ' +
    'process of the platform with an idle sandbox of 512 MiB that was restored from a kept boot, and of envd inside the guest; beside each daemon in Node, a Node process ' +
    'that does nothing but listen, on the same machine. Guest RAM is a shared memory file and counts with QEMU as far as it has been loaded. ' +
    'The text of the node binary is shared: the more Node processes a machine runs, the less of it each counts.',
  series: {
    torpor: { title: '`torpor up` (control plane and host agent)', unit: 'MiB' },
    postgres: { title: 'PostgreSQL, all its processes', unit: 'MiB' },
    qemu: { title: 'QEMU of one sandbox, guest RAM included', unit: 'MiB' },
    pager: { title: 'pager', unit: 'MiB' },
    envd: { title: 'envd, in the guest', unit: 'MiB' },
    'plain-host': { title: 'plain Node daemon on the host', unit: 'MiB' },
    'plain-guest': { title: 'plain Node daemon in the guest', unit: 'MiB' },
  },
  comparisons: [
    { title: '`torpor up` ÷ a plain Node daemon', of: 'torpor', to: 'plain-host' },
    { title: 'envd ÷ a plain Node daemon in the guest', of: 'envd', to: 'plain-guest' },
  ],
  costs(measured) {
    const parts = ['torpor', 'postgres', 'qemu', 'pager'].filter((name) => measured.has(name));
    return [
      {
        title: 'The platform with one idle sandbox',
        costs: parts.map((name) => ({
          title: idleMemory.series[name]?.title ?? name,
          value: measured.median(name),
          unit: 'MiB' as const,
          how: 'PSS',
        })),
      },
    ];
  },
  async run(context) {
    context.progress('starting a sandbox');
    const platform = await context.shared.platform();
    // Keeps the boot of this shape, so that the next sandbox is restored and has run nothing yet.
    await context.shared.sandbox();
    await using stack = new AsyncDisposableStack();
    const sandbox = stack.use(await platform.create());
    const plain = stack.use(await Server.start(process.execPath, ['-e', PLAIN_DAEMON]));
    const daemon = await sandbox.start('node', ['-e', PLAIN_DAEMON]);
    stack.defer(async () => {
      await sandbox.exec('kill', ['-9', String(daemon.pid)]);
    });
    const rounds = context.quick ? 2 : 6;
    for (let round = 0; round < rounds; round++) {
      if (!context.quick) await delay(2000);
      const measured = {
        ...(await onHost(platform, sandbox.id)),
        ...(await inGuest(sandbox, daemon.pid)),
      };
      context.record('plain-host', round, await proportionalSetSize(plain.pid));
      for (const [series, mib] of Object.entries(measured)) context.record(series, round, mib);
    }
  },
};

async function onHost(platform: Platform, sandboxId: string): Promise<Record<string, number>> {
  const processes = await listProcesses();
  const ours = processes.filter(({ commandLine }) => commandLine.includes(platform.dataDir));
  const postmasters = ours.filter(({ commandLine }) => /\/postgres\0/.test(commandLine));
  // The backends have their own titles instead of the command line.
  const backends = processes.filter(({ parent }) => postmasters.some(({ pid }) => pid === parent));
  const groups = {
    torpor: [platform.pid],
    postgres: [...postmasters, ...backends].map(({ pid }) => pid),
    qemu: ours
      .filter(({ commandLine }) => /qemu-system/.test(commandLine))
      .filter(({ commandLine }) => commandLine.includes(sandboxId))
      .map(({ pid }) => pid),
    pager: ours.filter(({ commandLine }) => commandLine.includes('/pager/')).map(({ pid }) => pid),
  };
  const sums: Record<string, number> = {};
  for (const [series, pids] of Object.entries(groups)) {
    const sizes = await Promise.all(pids.map(proportionalSetSize));
    if (sizes.length > 0) sums[series] = sizes.reduce((sum, size) => sum + size, 0);
  }
  return sums;
}

async function inGuest(sandbox: Sandbox, plainPid: number): Promise<Record<string, number>> {
  return {
    // The parent of the executed shell.
    envd: await guestPss(sandbox, '$PPID'),
    'plain-guest': await guestPss(sandbox, String(plainPid)),
  };
}

async function guestPss(sandbox: Sandbox, pid: string): Promise<number> {
  const script = `cat /proc/${pid}/smaps_rollup`;
  const { stdout, stderr } = await sandbox.exec('sh', ['-c', script], { user: 'root' });
  if (stderr !== '') throw new Error(`${script}: ${stderr}`);
  return parsePss(stdout);
}
