import type { Sandbox } from '@torpor/sdk';
import type { Benchmark } from '../harness/benchmark.ts';

/** Marks that our initramfs prints with the guest's uptime, and the kernel's own before them. */
const CONSOLE_MARK = /^torpor: \[(\d+\.\d+)\] (.+?)\r*$/gm;
const LAST_MARK = 'starting envd';

export const boot: Benchmark = {
  name: 'boot',
  title: 'Booting a sandbox, phase by phase',
  method:
    'Sandboxes are created and destroyed one after the other, each of a shape (512 MiB of RAM and a little more) that the platform has not seen, ' +
    'so that each boots, and is kept as a build for later creates. The phases are those that the response to `POST /v1/sandboxes` ' +
    'carries; what happens inside a guest that boots is taken from the marks on its console, which carry its uptime.',
  series: {
    create: { title: 'create, as the client sees it', unit: 'ms' },
    'first-exec': { title: 'the first exec after it', unit: 'ms' },
    'phase:*': { title: 'phase', unit: 'ms' },
    'guest:*': { title: 'in the guest', unit: 'ms' },
  },
  comparisons: [],
  costs(measured) {
    const phases = measured.names.filter(
      (name) => name.startsWith('phase:') && name !== 'phase:total',
    );
    const inside = measured.names.filter((name) => name.startsWith('guest:'));
    return [
      {
        title: 'Creating the first sandbox of its shape',
        costs: phases.map((name) => ({
          title: name.slice('phase:'.length),
          value: measured.median(name),
          unit: 'ms' as const,
          how: 'timed by the host agent',
        })),
      },
      ...(inside.length === 0
        ? []
        : [
            {
              title: 'The boot of the guest',
              costs: inside.map((name) => ({
                title: name.slice('guest:'.length),
                value: measured.median(name),
                unit: 'ms' as const,
                how: 'marks on the console',
              })),
            },
          ]),
    ];
  },
  async run(context) {
    const rounds = context.quick ? 1 : 4;
    const platform = await context.shared.platform();
    for (let round = 0; round < rounds; round++) {
      context.progress(`boot ${round + 1} of ${rounds}`);
      const start = performance.now();
      const sandbox = await platform.createCold();
      context.record('create', round, performance.now() - start);
      const ready = performance.now();
      await sandbox.exec('true');
      context.record('first-exec', round, performance.now() - ready);
      const timings = new Map(
        (sandbox.info.timings ?? []).map(({ phase, milliseconds }) => [phase, milliseconds]),
      );
      for (const [phase, milliseconds] of timings) {
        context.record(`phase:${phase}`, round, milliseconds);
      }
      const parts = await insideTheGuest(sandbox, timings.get('boot'));
      for (const [part, milliseconds] of parts) {
        context.record(`guest:${part}`, round, milliseconds);
      }
      await sandbox.destroy();
    }
  },
};

/** The parts of a boot, in milliseconds; none for a guest that was restored. */
async function insideTheGuest(
  sandbox: Sandbox,
  bootMs: number | undefined,
): Promise<[string, number][]> {
  const console = (await sandbox.console()).toString();
  const marks = [...console.matchAll(CONSOLE_MARK)].map(
    ([, seconds, name]) => [name ?? '', Number(seconds) * 1000] as const,
  );
  if (bootMs === undefined || marks.at(-1)?.[0] !== LAST_MARK) return [];
  const parts: [string, number][] = [];
  let before = 0;
  for (const [name, at] of marks) {
    parts.push([
      name === 'init' ? 'kernel, until /init' : `initramfs, until "${name}"`,
      at - before,
    ]);
    before = at;
  }
  parts.push(['envd, until it responds', Math.max(0, bootMs - before)]);
  return parts;
}
