import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TORPOR } from '@torpor/testkit/cli';
import { eventually, openTerminal, type Terminal } from './terminal.ts';

/** A program that records each signal that it receives. */
export const SIGNAL_RECORDER = fileURLToPath(new URL('./signal-recorder.mjs', import.meta.url));

/** A directory for the redirections and the output of a command. */
export class TerminalScene implements AsyncDisposable {
  readonly directory: string;
  readonly #dataDir: string;

  private constructor(directory: string, dataDir: string) {
    this.directory = directory;
    this.#dataDir = dataDir;
  }

  /** `dataDir`: that of the commands' server. */
  static async open(dataDir: string): Promise<TerminalScene> {
    const directory = await mkdtemp(join(tmpdir(), 'torpor-terminal-'));
    await writeFile(join(directory, 'input'), 'input\n');
    execFileSync('mkfifo', [join(directory, 'fifo')]);
    return new TerminalScene(directory, dataDir);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return rm(this.directory, { recursive: true });
  }

  /** Options and command of `exec` and `run` for the program that records its signals. */
  recorder(sandbox: string): string {
    return `-u root ${sandbox} -- ${process.execPath} ${SIGNAL_RECORDER} ${join(this.directory, 'log')}`;
  }

  /** Like {@link recorder}, for a program that handles the signals slowly, and exits with 7. */
  slowRecorder(sandbox: string): string {
    const log = join(this.directory, 'log');
    const traps = ['INT', 'QUIT', 'TERM', 'HUP'].map((name) => `trap "on SIG${name}" ${name};`);
    const script = `on() { echo $1 >> ${log}; told=1; }; ${traps.join(' ')} echo ready >> ${log}; until [ "$told" ]; do sleep 0.1; done; for i in $(seq 20); do sleep 0.1; done; echo saved; echo finished >> ${log}; exit 7`;
    return `-u root ${sandbox} -- bash -c '${script}'`;
  }

  /** A start script for npm that runs `torpor ARGS`. */
  async npmStart(args: string): Promise<void> {
    const start = `node ${TORPOR} ${args}`;
    await writeFile(join(this.directory, 'package.json'), JSON.stringify({ scripts: { start } }));
  }

  /** Runs `torpor ARGS` as the child of a shell, which is in the same foreground group. */
  run(node: string, args: string, redirect = ''): Terminal {
    return this.shell(`
      trap : INT QUIT TERM
      stty -a > before
      ( echo $BASHPID > pid; exec ${node} ${TORPOR} ${args} ${redirect} )
      echo $? > status
      stty -a > after`);
  }

  shell(script: string): Terminal {
    return openTerminal(`cd ${this.directory}; ${script}`, { TORPOR_DATA_DIR: this.#dataDir });
  }

  /** A file's content; empty if there is none. */
  read(name: string): string {
    try {
      return readFileSync(join(this.directory, name), 'utf8');
    } catch {
      return '';
    }
  }

  async untilReady(): Promise<void> {
    await eventually(() => this.read('log').startsWith('ready'), 'the program is ready');
  }

  /** The signals that the program received after it was ready. */
  get received(): string[] {
    return this.read('log').split('\n').filter(Boolean).slice(1);
  }

  get pid(): number {
    return Number(this.read('pid'));
  }
}
