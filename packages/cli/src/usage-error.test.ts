import { cli } from '@torpor/testkit/cli';
import { expect, test } from 'vitest';

test.each([
  [
    'a value that an option cannot have',
    ['create', '--vcpus', '0'],
    '--vcpus has the invalid value "0".',
    'It must be a whole number from 1 to 1024.',
  ],
  [
    'a value that is none of the choices',
    ['templates', 'ls', '--type', "it's"],
    '--type has the invalid value "it\'s".',
    'Allowed choices are base, snapshot.',
  ],
  [
    'an option before the command',
    ['--data-dir', '/tmp', 'ls'],
    "Unknown option '--data-dir'.",
    'Options go after the command; add --help to the command to see them.',
  ],
  [
    'an argument that is missing',
    ['info'],
    "Missing required argument 'id'.",
    'Add --help to the command to see its arguments and options.',
  ],
  [
    'a command that does not exist',
    ['creat'],
    "Unknown command 'creat'. Did you mean create?",
    '`--help` lists the commands.',
  ],
])('%s is refused with what to do', async (_what, args, message, remedy) => {
  expect(await cli(args)).toMatchObject({
    exitCode: 2,
    stdout: '',
    stderr: `torpor: ${message}\n  → ${remedy}\n`,
  });
});
