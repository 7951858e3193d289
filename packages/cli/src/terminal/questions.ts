import { createInterface } from 'node:readline';
import { TorporError } from '@torpor/sdk/basics';
import type { Io } from '../io.ts';

/** For the help of commands that ask. */
export const ANSWERS_ON_STANDARD_INPUT =
  '\nWithout a terminal each answer is a line of standard input. No secret is an argument, since other\nusers of the machine can see those.';

/**
 * Asks for what must not be on a command line, which other users can see. On a terminal these are
 * prompts; else each answer is a line of standard input.
 */
export class Questions implements Disposable {
  readonly #io: Io;
  #lines: ReturnType<typeof createInterface> | undefined;
  #answers: AsyncIterator<string> | undefined;

  constructor(io: Io) {
    this.#io = io;
  }

  /** Throws `invalid_request` if there is no answer. */
  async ask(question: string): Promise<string> {
    if (!this.#io.stdin.isTTY) return (await this.#nextLine(question)).trim();
    const { text } = await import('@clack/prompts');
    return this.#prompted(question, await text({ message: question, ...this.#streams() }));
  }

  /** Does not show what is typed. */
  async askSecret(question: string): Promise<string> {
    if (!this.#io.stdin.isTTY) return this.#nextLine(question);
    const { password } = await import('@clack/prompts');
    return this.#prompted(question, await password({ message: question, ...this.#streams() }));
  }

  [Symbol.dispose](): void {
    this.#lines?.close();
  }

  #streams() {
    return { input: this.#io.stdin, output: this.#io.stderr };
  }

  #prompted(question: string, answer: unknown): string {
    if (typeof answer === 'string' && answer !== '') return answer;
    throw noAnswer(question, '');
  }

  async #nextLine(question: string): Promise<string> {
    this.#lines ??= createInterface({ input: this.#io.stdin, crlfDelay: Number.POSITIVE_INFINITY });
    this.#answers ??= this.#lines[Symbol.asyncIterator]();
    const { value, done } = await this.#answers.next();
    if (done === true || value === '') {
      throw noAnswer(question, 'Type it on a terminal, or give it as a line of standard input.');
    }
    return value;
  }
}

function noAnswer(question: string, remedy: string): TorporError {
  return new TorporError('invalid_request', `No answer was given: ${question}`, { remedy });
}
