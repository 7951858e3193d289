import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { cli, TORPOR } from '@torpor/testkit/cli';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type HostStack, startHostStack } from '../support/host-stack.ts';
import { eventually } from '../support/terminal.ts';
import { SIGNAL_RECORDER, TerminalScene } from '../support/terminal-scene.ts';

/*
 * The CLI as a user's shell runs it: a process in the foreground group of a real terminal, on
 * the project's Node and on the one of the PATH (Node 20 on many machines). The program in the
 * "sandbox" records each signal that it receives.
 */

const NODES = ['node', process.execPath];
/** Longer than the time in which two signals count as one. */
const SECOND_PRESS_MS = 500;
/** Shorter than that time. */
const FAST_PRESS_MS = 220;

const resources = new AsyncDisposableStack();
let stack: HostStack;
let id: string;

beforeAll(async () => {
  stack = resources.use(await startHostStack(3 + NODES.length));
  const env = { TORPOR_DATA_DIR: stack.dataDir };
  id = (await cli(['create'], { env })).stdout.trim();
});
afterAll(() => resources.disposeAsync());

async function openScene(): Promise<TerminalScene> {
  return resources.use(await TerminalScene.open(stack.dataDir));
}

/** Keeps waiting when it is asked to exit. */
const STUBBORN = `sh -c 'trap "" INT; trap "echo ignored" TERM; echo ready; while :; do sleep 0.1; done'`;
const CTRL_C = '\x03';
const CTRL_Z = '\x1a';
const CTRL_BACKSLASH = '\x1c';
const NUMBERS = { SIGINT: 2, SIGQUIT: 3, SIGTERM: 15, SIGHUP: 1 } as const;

const INPUTS = ['', '< input', '<> fifo', '< /dev/null', '<&-'];
const OUTPUTS = ['', '| cat', '> out', '>&- 2>&-'];
const REDIRECTIONS = INPUTS.flatMap((input) => OUTPUTS.map((output) => `${input} ${output}`));

describe.each(NODES)('one signal is one signal to the program, on %s', (node) => {
  test.concurrent.each(node === 'node' ? REDIRECTIONS : INPUTS)(
    'Ctrl-C, with the redirections "%s"',
    async (redirect) => {
      const scene = await openScene();
      using terminal = scene.run(node, `exec ${scene.recorder(id)}`, redirect);
      await scene.untilReady();
      terminal.type(CTRL_C);
      await terminal.exited;
      expect(scene.received).toEqual(['SIGINT']);
      // The status of a pipeline is that of `cat`.
      if (!redirect.includes('|')) expect(scene.read('status')).toBe('130\n');
      expect(scene.read('after')).toBe(scene.read('before'));
    },
  );

  test.concurrent.each([
    ['SIGINT', ''],
    ['SIGINT', '< input'],
    ['SIGQUIT', ''],
    ['SIGQUIT', '<> fifo'],
    ['SIGTERM', ''],
    ['SIGTERM', '< input'],
    ['SIGHUP', ''],
    ['SIGHUP', '< input'],
  ] as const)('%s to the process alone, with "%s"', async (signal, redirect) => {
    const scene = await openScene();
    using terminal = scene.run(node, `exec ${scene.recorder(id)}`, redirect);
    await scene.untilReady();
    process.kill(scene.pid, signal);
    await terminal.exited;
    expect(scene.received).toEqual([signal]);
    expect(scene.read('status')).toBe(`${128 + NUMBERS[signal]}\n`);
  });

  test.concurrent('Ctrl-\\', async () => {
    const scene = await openScene();
    using terminal = scene.run(node, `exec ${scene.recorder(id)}`, '< input');
    await scene.untilReady();
    terminal.type(CTRL_BACKSLASH);
    await terminal.exited;
    expect(scene.received).toEqual(['SIGQUIT']);
    expect(scene.read('status')).toBe('131\n');
  });

  test.concurrent('a terminal that is closed', async () => {
    const scene = await openScene();
    using terminal = scene.shell(`exec ${node} ${TORPOR} exec ${scene.recorder(id)}`);
    await scene.untilReady();
    terminal.hangUp();
    expect(await terminal.exited).toBe(129);
    expect(scene.received).toEqual(['SIGHUP']);
  });

  test.concurrent.each(['exec', 'exec --tty'])(
    '%s: the exit status is that of a program that handles the hang-up of its terminal',
    async (command) => {
      const scene = await openScene();
      using terminal = scene.shell(`exec ${node} ${TORPOR} ${command} ${scene.slowRecorder(id)}`);
      await scene.untilReady();
      terminal.hangUp();
      expect(await terminal.exited).toBe(7);
      expect(scene.received).toEqual(['SIGHUP', 'finished']);
    },
  );

  test.concurrent('Ctrl-Z stops the command, not the program; fg continues it', async () => {
    const scene = await openScene();
    using terminal = scene.shell(`
      set -m
      sh -c 'echo $$ > pid; exec ${node} ${TORPOR} exec ${scene.recorder(id)}'
      echo $? > stopped
      fg
      echo $? > status`);
    await scene.untilReady();
    terminal.type(CTRL_Z);
    await eventually(() => scene.read('stopped') !== '', 'the command is stopped');
    expect(scene.read('stopped')).toBe('148\n');
    await eventually(() => isForeground(scene.pid), 'the command is in the foreground again');
    terminal.type(CTRL_C);
    await terminal.exited;
    expect(scene.received).toEqual(['SIGINT']);
    expect(scene.read('status')).toBe('130\n');
  });

  test.concurrent('the exit status is that of a program that handles the signal', async () => {
    const scene = await openScene();
    using terminal = scene.run(node, `exec ${scene.recorder(id)} 7`, '< input');
    await scene.untilReady();
    terminal.type(CTRL_C);
    await terminal.exited;
    expect(scene.received).toEqual(['SIGINT']);
    expect(scene.read('status')).toBe('7\n');
  });

  test.concurrent('a second Ctrl-C kills a program that ignores the first', async () => {
    const scene = await openScene();
    const log = join(scene.directory, 'log');
    const script = `trap "echo ignored >> ${log}" INT; echo ready >> ${log}; while :; do sleep 0.1; done`;
    using terminal = scene.run(node, `exec -u root ${id} -- bash -c '${script}'`, '< input');
    await scene.untilReady();
    terminal.type(CTRL_C);
    await eventually(() => scene.received.length > 0, 'the first signal has arrived');
    await delay(SECOND_PRESS_MS);
    terminal.type(CTRL_C);
    await terminal.exited;
    expect(scene.received).toEqual(['ignored']);
    expect(scene.read('status')).toBe('130\n');
  });

  test.concurrent('Ctrl-C that is pressed again and again kills a program that ignores it', async () => {
    const scene = await openScene();
    using terminal = scene.run(node, `exec -u root ${id} -- ${STUBBORN}`, '> out < input');
    await eventually(() => scene.read('out').includes('ready'), 'the program is ready');
    for (let press = 0; scene.read('status') === '' && press < 32; press++) {
      terminal.type(CTRL_C);
      // Each soon enough after the previous one to count as the same, if it were the only one.
      await delay(FAST_PRESS_MS);
    }
    await terminal.exited;
    expect(scene.read('status')).toBe('130\n');
  });

  test.concurrent('run removes its sandbox after Ctrl-C', async () => {
    const scene = await openScene();
    using terminal = scene.run(node, `run ${scene.recorder('')}`, '< input');
    await scene.untilReady();
    terminal.type(CTRL_C);
    await terminal.exited;
    expect(scene.received).toEqual(['SIGINT']);
    expect(scene.read('status')).toBe('130\n');
    const { stdout } = await cli(['ls', '-q'], { env: { TORPOR_DATA_DIR: stack.dataDir } });
    expect(stdout.split('\n')).toContain(id);
    expect(stdout.split('\n').filter(Boolean).length).toBeLessThan(1 + NODES.length);
  });

  test.concurrent('with --json the program is killed and the exit status is that of the signal', async () => {
    const scene = await openScene();
    using terminal = scene.run(node, `exec --json ${scene.recorder(id)}`, '< input');
    await scene.untilReady();
    terminal.type(CTRL_C);
    await terminal.exited;
    expect(scene.read('status')).toBe('130\n');
  });

  test.concurrent.each([
    ['exec', ''],
    ['exec --tty', ''],
    ['exec --tty', '< /dev/null'],
  ])(
    '%s: the command exits as with SIGPIPE when its reader exits, %s',
    async (command, redirect) => {
      const scene = await openScene();
      const status = '2> errors | head -n 1; echo "status $PIPESTATUS" > pipe';
      using terminal = scene.run(node, `${command} -u root ${id} -- yes`, `${redirect} ${status}`);
      await terminal.exited;
      expect(scene.read('pipe')).toBe('status 141\n');
      expect(scene.read('errors')).toBe('');
    },
  );

  test.concurrent.each(['exec', 'exec --tty', 'shell'])(
    '%s to a full disk reports that, and kills the program',
    async (command) => {
      const scene = await openScene();
      const program = command === 'shell' ? '' : '-- yes';
      using terminal = scene.run(
        node,
        `${command} -u root ${id} ${program}`,
        '> /dev/full 2> errors',
      );
      await terminal.exited;
      expect(scene.read('status')).toBe('125\n');
      expect(scene.read('errors')).toContain(
        'Standard output cannot be written: no space left on device (ENOSPC).',
      );
      expect(scene.read('errors')).not.toMatch(/data directory|defect/);
    },
  );

  test.concurrent.each(['', '> out'])(
    'exec --tty%s: raw keys and a new size are passed on; the terminal is restored',
    async (redirect) => {
      const scene = await openScene();
      using terminal = scene.run(node, `exec --tty ${scene.recorder(id)}`, redirect);
      await scene.untilReady();
      terminal.resize(101, 33);
      await eventually(() => scene.received.includes('101x33'), 'the size has arrived');
      process.kill(scene.pid, 'SIGTSTP');
      await eventually(() => stat(scene.pid)[0] === 'T', 'the command is stopped');
      expect(stty(scene.pid)).toContain(' icanon');
      process.kill(scene.pid, 'SIGCONT');
      await eventually(() => stty(scene.pid).includes('-icanon'), 'the terminal is raw again');
      terminal.type(CTRL_C);
      process.kill(scene.pid, 'SIGTERM');
      await terminal.exited;
      expect(scene.received).toContain('SIGTERM');
      expect(scene.received).not.toContain('SIGINT');
      expect(scene.read('status')).toBe('143\n');
      expect(withoutSize(scene.read('after'))).toBe(withoutSize(scene.read('before')));
    },
  );

  test.concurrent.each([
    ['SIGINT', '< input'],
    ['SIGQUIT', '<> fifo'],
    ['SIGTERM', ''],
    ['SIGTERM', '< input'],
    ['SIGHUP', ''],
  ] as const)(
    'exec --tty: %s from another process reaches the program, with "%s"',
    async (signal, redirect) => {
      const scene = await openScene();
      using terminal = scene.run(node, `exec --tty ${scene.recorder(id)} 7`, redirect);
      await scene.untilReady();
      process.kill(scene.pid, signal);
      await terminal.exited;
      expect(scene.received).toEqual([signal]);
      expect(scene.read('status')).toBe('7\n');
    },
  );

  test.concurrent('exec --tty: a second signal kills the program', async () => {
    const scene = await openScene();
    using terminal = scene.run(node, `exec --tty -u root ${id} -- ${STUBBORN}`, '> out');
    await eventually(() => scene.read('out').includes('ready'), 'the program is ready');
    process.kill(scene.pid, 'SIGTERM');
    await eventually(() => scene.read('out').includes('ignored'), 'the first has arrived');
    await delay(SECOND_PRESS_MS);
    process.kill(scene.pid, 'SIGTERM');
    await terminal.exited;
    expect(scene.read('status')).toBe('143\n');
  });

  test.concurrent.each(['SIGTERM', 'SIGHUP', 'SIGINT'] as const)(
    'shell: %s hangs its terminal up, which terminates the programs on it',
    async (signal) => {
      const scene = await openScene();
      using terminal = scene.run(node, `shell -u root ${id}`);
      terminal.type(`${process.execPath} ${SIGNAL_RECORDER} ${join(scene.directory, 'log')}\r`);
      await scene.untilReady();
      process.kill(scene.pid, signal);
      await terminal.exited;
      await eventually(() => scene.received.length > 0, 'the program was told');
      expect(scene.received[0]).toBe('SIGHUP');
      expect(scene.read('status')).toBe(`${128 + NUMBERS[signal]}\n`);
    },
  );

  test.concurrent('exit terminates shell, and the terminal is restored', async () => {
    const scene = await openScene();
    using terminal = scene.run(node, `shell -u root ${id}`);
    terminal.type('echo $((6*7)); exit 9\r');
    await terminal.exited;
    expect(terminal.output()).toContain('42');
    expect(scene.read('status')).toBe('9\n');
    expect(scene.read('after')).toBe(scene.read('before'));
  });
});

describe('one signal terminates cp', () => {
  test.concurrent.each([
    ['from a FIFO without a writer', 'fifo', 'ID:x'],
    ['into a FIFO without a reader', 'ID:/etc/hostname', 'fifo'],
    ['from a terminal', '/dev/tty', 'ID:x'],
  ])('%s', async (_, from, to) => {
    const scene = await openScene();
    const args = `${from} ${to}`.replace('ID', id);
    using terminal = scene.run('node', `cp -u root ${args}`, '2> errors');
    await eventually(() => handlesSignals(scene), 'the copy has begun');
    process.kill(scene.pid, 'SIGTERM');
    await terminal.exited;
    expect(scene.read('errors')).toContain('The copy was interrupted');
    expect(scene.read('status')).toBe('143\n');
  });
});

/** Whether the program has installed its signal handlers, after the shell that execs it; proc_pid_status(5). */
function handlesSignals(scene: TerminalScene): boolean {
  try {
    const status = readFileSync(`/proc/${scene.pid}/status`, 'utf8');
    const caught = BigInt(`0x${/^SigCgt:\s*(\w+)$/m.exec(status)?.[1] ?? 0}`);
    return (caught & (1n << BigInt(NUMBERS.SIGHUP - 1))) !== 0n;
  } catch {
    return false;
  }
}

test.concurrent.each(['< /dev/null', '<&-'])('shell %s exits', async (redirect) => {
  const scene = await openScene();
  using terminal = scene.run('node', `shell -u root ${id}`, redirect);
  await terminal.exited;
  expect(scene.read('status')).toBe('0\n');
});

test.concurrent.each(['', '--tty'])(
  'exec %s does not wait for a guest that does not accept the signal',
  { timeout: 90_000 },
  async (tty) => {
    const env = { TORPOR_DATA_DIR: stack.dataDir };
    const hanging = (await cli(['create'], { env })).stdout.trim();
    const scene = await openScene();
    const program = `sh -c 'echo $PPID; exec sleep 300'`;
    using terminal = scene.run(
      process.execPath,
      `exec ${tty} -u root ${hanging} -- ${program}`,
      '> out',
    );
    await eventually(() => scene.read('out').endsWith('\n'), 'the program runs');
    const daemon = Number(scene.read('out'));
    process.kill(daemon, 'SIGSTOP');
    try {
      process.kill(scene.pid, 'SIGTERM');
      await terminal.exited;
    } finally {
      process.kill(daemon, 'SIGCONT');
      await cli(['rm', hanging], { env });
    }
    expect(scene.read('status')).toBe('143\n');
  },
);

describe('under npm, which passes signals on as well', () => {
  test.concurrent.each(['', '< input'])('Ctrl-C is one signal, with "%s"', async (redirect) => {
    const scene = await openScene();
    await scene.npmStart(`exec ${scene.recorder(id)}`);
    using terminal = scene.shell(`trap : INT; npm start ${redirect}; echo $? > status`);
    await scene.untilReady();
    terminal.type(CTRL_C);
    await terminal.exited;
    expect(scene.received).toEqual(['SIGINT']);
    expect(scene.read('status')).toBe('130\n');
  });

  test.concurrent('a SIGTERM to npm alone reaches the program', async () => {
    const scene = await openScene();
    // Not the last command of its shell, so that npm's signal terminates only the shell.
    await scene.npmStart(`exec ${scene.recorder(id)}; true`);
    using terminal = scene.shell(
      'npm start & echo $! > pid; wait; until grep -q SIG log; do sleep 0.1; done',
    );
    await scene.untilReady();
    process.kill(scene.pid, 'SIGTERM');
    await eventually(() => scene.received.length > 0, 'the signal has arrived');
    await terminal.exited;
    expect(scene.received).toEqual(['SIGTERM']);
  });

  test.concurrent.each(['exec', 'exec --tty'])(
    '%s: a closed terminal, which terminates npm too, is one signal',
    async (command) => {
      const scene = await openScene();
      await scene.npmStart(`${command} ${scene.slowRecorder(id)}`);
      using terminal = scene.shell('exec npm start');
      await scene.untilReady();
      terminal.hangUp();
      await eventually(() => scene.received.includes('finished'), 'the program could finish');
      expect(scene.received).toEqual(['SIGHUP', 'finished']);
    },
  );

  test.concurrent('Ctrl-\\, which terminates npm too, is one signal', async () => {
    const scene = await openScene();
    await scene.npmStart(`exec ${scene.slowRecorder(id)}`);
    using terminal = scene.shell(
      'trap : QUIT; npm start < input; until grep -q finished log; do sleep 0.1; done',
    );
    await scene.untilReady();
    terminal.type(CTRL_BACKSLASH);
    await eventually(() => scene.received.includes('finished'), 'the program could finish');
    await terminal.exited;
    expect(scene.received).toEqual(['SIGQUIT', 'finished']);
  });

  test.concurrent.each(['SIGHUP', 'SIGTERM', 'SIGQUIT'] as const)(
    '%s to npm, whose exit closes the terminal, is one signal',
    async (signal) => {
      const scene = await openScene();
      await scene.npmStart(`exec ${scene.slowRecorder(id)}; true`);
      using terminal = scene.shell('npm start & echo $! > pid; wait');
      await scene.untilReady();
      process.kill(scene.pid, signal);
      await terminal.exited;
      await eventually(() => scene.received.includes('finished'), 'the program could finish');
      expect(scene.received).toEqual(['SIGHUP', 'finished']);
    },
  );

  test.concurrent('Ctrl-C stops a server once', async () => {
    const scene = await openScene();
    const server = fileURLToPath(new URL('../support/stoppable-server.ts', import.meta.url));
    const execScript = fileURLToPath(
      new URL('../../packages/cli/bin/bundled-node.mjs', import.meta.url),
    );
    await writeFile(
      join(scene.directory, 'start.mjs'),
      `import { execScript } from '${execScript}'; execScript('${server}', ['log']);`,
    );
    const start = 'node start.mjs';
    await writeFile(join(scene.directory, 'package.json'), JSON.stringify({ scripts: { start } }));
    using terminal = scene.shell('trap : INT; npm start < input');
    await scene.untilReady();
    terminal.type(CTRL_C);
    await terminal.exited;
    expect(scene.received).toEqual(['stopping', 'stopped']);
  });
});

/** The fields of proc_pid_stat(5), starting with the state. */
function stat(process: number): string[] {
  const text = readFileSync(`/proc/${process}/stat`, 'latin1');
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

function isForeground(process: number): boolean {
  const [state, , group, , , foregroundGroup] = stat(process);
  return state !== 'T' && group === foregroundGroup;
}

/** The settings of the terminal on a process's standard input. */
function stty(process: number): string {
  return ` ${execFileSync('stty', ['-a', '-F', `/proc/${process}/fd/0`]).toString()}`;
}

function withoutSize(settings: string): string {
  return settings.replace(/rows \d+; columns \d+;/, '');
}
