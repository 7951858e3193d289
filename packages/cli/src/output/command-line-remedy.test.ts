import { ERRORS, newId, REMEDIES, TorporError } from '@torpor/protocol';
import { describe, expect, test } from 'vitest';
import { commandLineRemedy } from './command-line-remedy.ts';

describe('the remedy of an error, on the command line', () => {
  test('is a command where the API says it for every client, with the id that the error names', () => {
    const id = newId('sandbox');
    const message = `Sandbox ${id} is not running, it is paused.`;
    const error = new TorporError('invalid_state', message, { remedy: REMEDIES.resume });
    expect(commandLineRemedy(error)).toBe(`Resume it with \`torpor resume ${id}\`.`);
  });

  test('leaves the id to the reader where the error names none', () => {
    const error = new TorporError('guest_failed', 'The kernel of the guest failed.');
    expect(commandLineRemedy(error)).toContain('`torpor logs <id>`');
  });

  test('is what the server says where that is for this error alone', () => {
    const remedy = 'Leave it out.';
    expect(commandLineRemedy(new TorporError('invalid_request', 'No.', { remedy }))).toBe(remedy);
    expect(commandLineRemedy(new TorporError('already_exists', 'It is there.'))).toBe(
      ERRORS.already_exists.remedy,
    );
    expect(commandLineRemedy(new TorporError('not_found', 'No.'))).toBe('');
  });

  test.each(Object.entries(REMEDIES))('%s names a command', (_name, remedy) => {
    const error = new TorporError('invalid_state', 'It is so.', { remedy });
    expect(commandLineRemedy(error)).toMatch(/`torpor [a-z]+|--overwrite/);
  });
});
